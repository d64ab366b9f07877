"""The race: its numbers against loops written by hand, its files read back."""

import csv
import io
import json
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import cs231n_optax
from cs231n_optax._files import replacing
from cs231n_optax.experiments import task as task_module
from cs231n_optax.experiments.race import experiment as race
from cs231n_optax.experiments.race import report as race_report
from cs231n_optax.experiments.race.picture import picture
from cs231n_optax.experiments.task import Budget, Task, num_parameters
from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import Network, softmax_regression

TRAIN, TEST, FEATURES, CLASSES = 24, 10, 3, 2
NAMES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam-uncorrected", "adam")


def make_task(network=None):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TRAIN + TEST, FEATURES)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.normal(size=len(x)) > 0).astype(np.int32)
    data = Dataset("tiny", x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], CLASSES)
    return Task(data, network or softmax_regression((FEATURES,), CLASSES))


def entrant(name, tx, learning_rate=0.5, style_index=0):
    return race.Entrant(name, style_index, learning_rate, tx(lambda count: learning_rate))


def silent(step, loss):
    pass


# Its logits overflow as soon as w does: with a huge rate, at the second step.
EXPLOSIVE = Network(lambda key: {"w": jnp.ones(())}, lambda p, x: p["w"] ** 2 * x[:, :CLASSES])

BUDGET = Budget(steps=12, batch_size=8, seeds=3)
TASK = make_task()


@pytest.fixture(scope="module")
def tracks():
    return [
        race.run(entrant("sgd", cs231n_optax.sgd), TASK, BUDGET, silent),
        race.run(entrant("adam", cs231n_optax.adam, 0.01, style_index=6), TASK, BUDGET, silent),
    ]


def made_up(name, final_losses, accuracies=None, diverged_at=None, style_index=0):
    """A track of as many seeds as there are final losses, evaluated at steps 0, 2 and 4."""
    seeds = len(final_losses)
    losses = np.array([[2.0, 1.0, loss] for loss in final_losses])
    accuracies = np.array(accuracies or [[0.1, 0.5, 0.9]] * seeds)
    flat = np.ones((seeds, 4))
    return race.Track(
        entrant=race.Entrant(name, style_index, 0.1, cs231n_optax.sgd(0.1)),
        loss=flat,
        learning_rate=0.1 * flat,
        grad_norm=flat,
        evaluated_at=np.array([0, 2, 4]),
        train_loss=losses,
        test_accuracy=np.where(np.isnan(losses), np.nan, accuracies),
        diverged_at=np.array(diverged_at or [-1] * seeds),
        train_seconds=0.5,
        compile_seconds=1.0,
    )


def setting(methods=("sgd", "adam"), budget=BUDGET, decay="constant"):
    return race.Setting(
        data="tiny",
        source="tiny",
        train_examples=TRAIN,
        test_examples=TEST,
        model="softmax",
        parameters=8,
        budget=budget,
        learning_rates=dict.fromkeys(methods, 0.5),
        decay=decay,
        decay_parameters={},
        accuracy_goal=0.9,
    )


def ranked(*tracks):
    return race.rank([race.summarize(track, 0.9) for track in tracks])


# The computation.


def numpy_gradient_descent(x, y, w, alpha, steps):
    """Softmax regression without bias, trained on all examples at once, in float64."""
    losses, norms = [], []
    for _ in range(steps + 1):
        logits = x @ w
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        losses.append(-np.mean(np.log(p[np.arange(len(y)), y])))
        gradient = x.T @ (p - np.eye(w.shape[1])[y]) / len(y)
        norms.append(np.linalg.norm(gradient))
        w = w - alpha * gradient
    return np.array(losses), np.array(norms)


def test_sgd_is_the_loop_written_by_hand(monkeypatch):
    monkeypatch.setattr(task_module, "_EVALUATION_BLOCK", 7)  # which divides neither set
    w = np.linspace(-1, 1, FEATURES * CLASSES).reshape(FEATURES, CLASSES)
    network = Network(lambda key: {"w": jnp.asarray(w, jnp.float32)}, lambda p, x: x @ p["w"])
    task = make_task(network)
    budget = Budget(steps=6, batch_size=TRAIN, seeds=2)
    shown = {}
    track = race.run(entrant("sgd", cs231n_optax.sgd, 0.7), task, budget, shown.__setitem__)

    x, y = task.dataset.x_train.astype(np.float64), task.dataset.y_train
    losses, norms = numpy_gradient_descent(x, y, w, 0.7, steps=6)
    for seed in range(2):
        np.testing.assert_allclose(track.loss[seed], losses[:-1], rtol=1e-5)
        np.testing.assert_allclose(track.grad_norm[seed], norms[:-1], rtol=1e-5)
        np.testing.assert_allclose(track.train_loss[seed], losses[track.evaluated_at], rtol=1e-5)
    right = np.mean(np.argmax(task.dataset.x_test @ w, axis=1) == task.dataset.y_test)
    np.testing.assert_allclose(track.test_accuracy[:, 0], right)
    assert list(shown) == list(range(7))
    np.testing.assert_allclose([shown[i + 1] for i in range(6)], losses[:-1], rtol=1e-5)


def test_a_seed_in_the_race_is_that_seed_alone(tracks):
    """Seed i starts at a point and shuffles by a key that depend on i only."""
    alone = race.run(entrant("sgd", cs231n_optax.sgd), TASK, replace(BUDGET, seeds=2), silent)
    np.testing.assert_allclose(alone.loss, tracks[0].loss[:2], rtol=1e-5)
    np.testing.assert_allclose(alone.train_loss, tracks[0].train_loss[:2], rtol=1e-5)


def test_methods_share_first_points_and_batches(tracks):
    sgd, adam = tracks
    np.testing.assert_array_equal(sgd.train_loss[:, 0], adam.train_loss[:, 0])
    np.testing.assert_array_equal(sgd.loss[:, 0], adam.loss[:, 0])
    assert len(set(sgd.train_loss[:, 0].tolist())) == BUDGET.seeds
    without_friction = partial(cs231n_optax.momentum, rho=0)  # the same rule by another name
    same = race.run(entrant("m", without_friction), TASK, BUDGET, silent)
    np.testing.assert_allclose(same.loss, sgd.loss, rtol=1e-5)


def test_the_learning_rate_is_recorded():
    schedule = cs231n_optax.step_decay(0.5, every=2)
    track = race.run(
        race.Entrant("sgd", 0, 0.5, cs231n_optax.sgd(schedule)),
        TASK,
        Budget(steps=5, batch_size=8, seeds=1),
        silent,
    )
    np.testing.assert_allclose(track.learning_rate[0], [0.5, 0.5, 0.25, 0.25, 0.125])


def test_shapes_and_times(tracks):
    track = tracks[0]
    assert track.loss.shape == track.grad_norm.shape == (BUDGET.seeds, BUDGET.steps)
    assert track.evaluated_at[0] == 0
    assert track.evaluated_at[-1] == BUDGET.steps
    assert track.train_loss.shape == (BUDGET.seeds, len(track.evaluated_at))
    assert min(track.train_seconds, track.compile_seconds) > 0
    summary = race.summarize(track, 0.9)
    updates = BUDGET.steps * BUDGET.seeds
    assert summary.steps_per_second == pytest.approx(updates / track.train_seconds)
    assert num_parameters(TASK.network) == (FEATURES + 1) * CLASSES


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, TRAIN))
def test_the_plan_adds_up(steps, batch_size):
    chunks, evaluated = race.plan(TASK, Budget(steps, batch_size, 1))
    assert sum(chunks) == steps
    assert min(steps, 14) <= len(chunks) <= 40
    assert len(set(chunks[:-1])) <= 1
    assert 1 <= chunks[-1] <= chunks[0]
    assert evaluated[0] == 0
    assert evaluated[-1] == steps
    assert set(evaluated) <= {0, *np.cumsum(chunks)}
    assert min(steps, 10) < len(evaluated) <= len(chunks) + 1


# Divergence.


def test_divergence_is_told_and_does_not_spread():
    task = make_task(EXPLOSIVE)
    track = race.run(entrant("sgd", cs231n_optax.sgd, 1e30), task, BUDGET, silent)
    assert track.diverged_at.tolist() == [1] * BUDGET.seeds
    for seed, step in enumerate(track.diverged_at):
        assert not np.isfinite(track.loss[seed, step])
        assert np.isnan(track.loss[seed, step + 1 :]).all()
        assert np.isnan(track.train_loss[seed, track.evaluated_at >= step]).all()
    summary = race.summarize(track, 0.9)
    assert math.isnan(summary.train_loss.mean)
    assert np.isinf(summary.steps_to_accuracy).all()


def test_overflow_with_the_last_update_is_divergence():
    task, budget = make_task(EXPLOSIVE), Budget(steps=1, batch_size=8, seeds=1)
    track = race.run(entrant("sgd", cs231n_optax.sgd, 1e30), task, budget, silent)
    assert np.isfinite(track.loss).all()
    assert track.diverged_at.tolist() == [1]


def test_ranking():
    ranking = ranked(
        made_up("half", [0.1, np.nan], diverged_at=[-1, 3]),
        made_up("lost", [np.nan, np.nan], diverged_at=[1, 2]),
        made_up("slow", [0.7, 0.5]),
        made_up("fast", [0.2, 0.4]),
    )
    assert [s.track.entrant.name for s in ranking] == ["fast", "slow", "half", "lost"]
    assert ranking[0].train_loss == pytest.approx((0.3, math.sqrt(0.02)))
    assert ranking[2].train_loss.mean == pytest.approx(0.1)
    assert math.isnan(ranking[2].train_loss.std)
    assert math.isnan(ranking[3].train_loss.mean)


def test_steps_to_accuracy():
    track = made_up("sgd", [1.0] * 3, [[0.1, 0.9, 0.8], [0.1, 0.2, 0.95], [0.1, 0.2, 0.3]])
    assert race.summarize(track, 0.9).steps_to_accuracy.tolist() == [2, 4, math.inf]


# What is told.


def test_verdict():
    fast, slow = made_up("fast", [0.2, 0.4]), made_up("slow", [0.3, 0.5])
    level = made_up("level", [0.5, 0.3])
    lost = made_up("lost", [np.nan, np.nan], diverged_at=[1, 2])
    assert race_report.verdict(ranked(fast, slow)).startswith("fast wins: ")
    assert "from 2 of 2 seeds" in race_report.verdict(ranked(fast, slow))
    assert race_report.verdict(ranked(fast, level)).startswith("fast wins on average: ")
    assert "from 1 of 2 seeds" in race_report.verdict(ranked(fast, level))
    close, closer = made_up("close", [0.3, 0.3, 0.3]), made_up("closer", [0.2, 0.2, 0.4])
    assert race_report.verdict(ranked(close, closer)).startswith("closer wins narrowly: ")
    assert "from 2 of 2 seeds" in race_report.verdict(ranked(fast, lost))
    assert race_report.verdict(ranked(fast)).startswith("Only fast finished: train loss 0.3 ±")
    assert race_report.verdict(ranked(lost)) == "Nobody wins: every method diverged."


def test_the_table_fits_80_columns_and_tells_all():
    tracks = [made_up(name, [0.00123456, 0.0123456]) for name in NAMES[:-2]]
    tracks.append(made_up("adam-uncorrected", [0.1, np.nan], diverged_at=[-1, 3]))
    tracks.append(made_up("adam", [np.nan, np.nan], diverged_at=[1, 2]))
    console, budget = Console(file=io.StringIO(), width=80), Budget(4, 8, 2)
    race_report.conclude(setting(NAMES, budget), ranked(*tracks), console)
    text = console.file.getvalue()
    assert "…" not in text
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["1", "sgd", "0.00679", "±", "0.00786", "90.0", "±", "0.0", "4", "16", "1.0"] in rows
    assert [
        "6",
        "adam-uncorrected",
        "1",
        "of",
        "2",
        "diverged",
        "90.0",
        "never",
        "16",
        "1.0",
    ] in rows
    assert ["7", "adam", "diverged", "-", "never", "16", "1.0"] in rows
    assert "adam-uncorrected diverged at step 3, from 1 of 2 seeds." in text
    assert "adam diverged between steps 1 and 2, from 2 of 2 seeds." in text


@pytest.mark.parametrize("width", [20, 40, 60, 79])
def test_the_table_is_whole_in_a_narrow_terminal(width):
    """It is printed in parts, each with the rank and the method; no cell is cut."""
    tracks = [made_up(name, [0.00123456, 0.0123456]) for name in NAMES]
    chosen, cells = setting(NAMES, Budget(4, 8, 2)), {}
    for columns in (width, 100):
        console = Console(file=io.StringIO(), width=columns)
        race_report.conclude(chosen, ranked(*tracks), console)
        lines = console.file.getvalue().splitlines()
        table = lines[: next(i for i, line in enumerate(lines) if line.startswith("Ranked"))]
        cells[columns] = sorted({*" ".join(table).replace("─", " ").split()})
        assert max(map(len, table)) <= columns
        assert "…" not in "".join(table)
        rows = [line.split() for line in table]
        if columns >= 40:
            assert {row[0] for row in rows if row[1:2] == ["momentum"]} == {"2"}
        if columns == 60:
            assert sum(row[:2] == ["2", "momentum"] for row in rows) == 2
    if width >= 40:
        assert cells[width] == cells[100]


@pytest.mark.parametrize(
    ("losses", "shown"),
    [
        ((0.5, 2.0), ("0.500", "2.000")),
        ((0.0002, 2.0), ("0.000200", "2.000000")),
        ((3e-9, 2.0), ("3.00e-09", "2.00e+00")),
        ((0.5, 1e30), ("5.00e-01", "1.00e+30")),
        ((0.0, 2.0), ("0.00e+00", "2.00e+00")),
    ],
)
def test_losses_of_any_size_are_readable(losses, shown):
    console = Console(file=io.StringIO(), width=80)
    ranking = ranked(*(made_up(f"m{i}", [loss]) for i, loss in enumerate(losses)))
    race_report.conclude(setting(budget=Budget(4, 8, 1)), ranking, console)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    for place, text in enumerate(shown, start=1):
        assert [row[2] for row in rows if row[:1] == [str(place)]] == [text]


def test_bars_move_in_a_terminal_only():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    pipe = Console(file=io.StringIO(), width=100)
    for console in (terminal, pipe):
        with race_report.Bars(setting(), console) as bars:
            move = bars.begin("sgd")
            move(0, 2.0)
            move(12, 0.125)
            bars.end(race.summarize(made_up("sgd", [0.125]), 0.9))
    assert "loss 0.125" in terminal.file.getvalue()
    assert "12/24" in terminal.file.getvalue()
    assert pipe.file.getvalue() == "sgd: train loss 0.125, test accuracy 90.0 %\n"


# The files.


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_step(tracks, tmp_path):
    race_report.write(tmp_path, setting(), ranked(*tracks), ())
    rows = read_csv(tmp_path / "race.csv")
    assert len(rows) == 2 * BUDGET.seeds * (BUDGET.steps + 1)
    for track in tracks:
        for seed in range(BUDGET.seeds):
            mine = [
                row
                for row in rows
                if row["method"] == track.entrant.name and row["seed"] == str(seed)
            ]
            assert [int(row["step"]) for row in mine] == list(range(BUDGET.steps + 1))
            for name, values in (
                ("batch_loss", track.loss),
                ("learning_rate", track.learning_rate),
                ("grad_norm", track.grad_norm),
            ):
                assert mine[-1][name] == ""
                read = np.array([row[name] for row in mine[:-1]], values.dtype)
                np.testing.assert_array_equal(read, values[seed])
            evaluated = [row for row in mine if row["train_loss"]]
            assert [int(row["step"]) for row in evaluated] == track.evaluated_at.tolist()
            read = np.array([row["test_accuracy"] for row in evaluated], np.float32)
            np.testing.assert_array_equal(read, track.test_accuracy[seed])


def test_csv_ends_a_seed_where_it_diverged(tmp_path):
    track = made_up("sgd", [0.1, np.nan], diverged_at=[-1, 2])
    race_report.write(tmp_path, setting(["sgd"]), ranked(track), ())
    steps = [(row["seed"], row["step"]) for row in read_csv(tmp_path / "race.csv")]
    assert steps == [("0", str(i)) for i in range(5)] + [("1", str(i)) for i in range(3)]


def test_json_is_strict_and_complete(tracks, tmp_path):
    lost = made_up("momentum", [np.nan, np.nan, np.nan], diverged_at=[2, 2, 3])
    race_report.write(tmp_path, setting(), ranked(*tracks, lost), ["nesterov"])

    def refuse(constant):
        raise AssertionError(constant)

    document = json.loads((tmp_path / "race.json").read_text(), parse_constant=refuse)
    assert document["configuration"]["budget"] == {"steps": 12, "batch_size": 8, "seeds": 3}
    assert document["configuration"]["learning_rates"] == {"sgd": 0.5, "adam": 0.5}
    assert document["versions"]["jax"] == jax.__version__
    assert document["versions"]["numpy"] == np.__version__
    assert document["machine"]["device"] == jax.devices()[0].platform
    assert document["complete"] is False
    assert document["unfinished"] == ["nesterov"]
    results = {result["method"]: result for result in document["results"]}
    assert [result["place"] for result in document["results"]] == [1, 2, 3]
    np.testing.assert_allclose(results["sgd"]["train_loss"]["seeds"], tracks[0].train_loss[:, -1])
    assert results["momentum"]["train_loss"] == {"mean": None, "std": None, "seeds": [None] * 3}
    assert results["momentum"]["diverged_at"] == [2, 2, 3]
    assert results["momentum"]["steps_to_accuracy"] == {"median": None, "seeds": [None] * 3}


@pytest.mark.parametrize("decay", ["constant", "step"])
def test_the_picture_shows_every_method(decay, tmp_path):
    tracks = [made_up(name, [0.1 + i, 0.2 + i], style_index=i) for i, name in enumerate(NAMES)]
    tracks[3] = made_up(NAMES[3], [np.nan, np.nan], diverged_at=[2, 2], style_index=3)
    chosen = setting(NAMES, Budget(4, 8, 2), decay)
    race_report.write(tmp_path, chosen, ranked(*tracks), ())
    pixels = matplotlib.image.imread(tmp_path / "race.png")[..., :3]
    height, width, _ = pixels.shape
    assert width == 1200
    assert 400 < height < 1000
    figure = picture(chosen, ranked(*tracks), ())
    losses, accuracies = figure.axes[:2]
    for axes in (losses, accuracies):
        lines = [line for line in axes.lines if line.get_marker() != "None"]
        assert len(lines) == len(NAMES)
        assert len({line.get_color() for line in lines}) == len(NAMES)
        assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == len(NAMES)
    drawn = {tuple(color) for color in (255 * pixels).round().astype(int).reshape(-1, 3)}
    for line in losses.lines:
        color = line.get_color()
        assert tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) in drawn
    texts = [text.get_text() for axes in figure.axes for text in axes.findobj(matplotlib.text.Text)]
    for name in NAMES:
        assert any(name in text for text in texts)
    assert any("α = 0.1" in text for text in texts) == (decay == "constant")
    assert any(text == "learning rate: step" for text in texts) == (decay == "step")


def test_a_file_name_is_no_mathematics():
    chosen = replace(setting(["sgd"]), data="a$\\b$c")
    figure = picture(chosen, ranked(made_up("sgd", [0.1])), ["adam"])
    figure.savefig(io.BytesIO())
    assert "a$\\b$c" in figure.get_suptitle()
    assert "adam missing" in figure.get_suptitle()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "race.csv"
    path.write_text("old")

    def write():
        with replacing(path, "w") as file:
            file.write("half of the new")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "race.csv"
    path.write_text("old")
    with replacing(path, "w") as file:
        file.write("α\n")
    assert path.read_bytes() == "α\n".encode()
    assert list(tmp_path.iterdir()) == [path]
