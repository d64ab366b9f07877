"""The study of hyperparameters: its rows against a `fit` written out, its search, its pictures."""

import io
import json
from dataclasses import replace

import jax
import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

import cs231n_optax
from cs231n_optax.experiments.race.experiment import Tuning
from cs231n_optax.experiments.sweep import experiment, picture, report
from cs231n_optax.experiments.sweep.experiment import Outcome, Range
from cs231n_optax.experiments.task import Budget, Task
from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import accuracy, cross_entropy, softmax_regression

TRAIN, FEATURES, CLASSES = 24, 3, 2
RATES = Range(1e-3, 10.0, log=True)


def make_task():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(TRAIN + 10, FEATURES)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.normal(size=len(x)) > 0).astype(np.int32)
    data = Dataset("tiny", x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:], CLASSES)
    return Task(data, softmax_regression((FEATURES,), CLASSES))


TASK = make_task()
BUDGET = Budget(steps=7, batch_size=8, seeds=2)


def setting(ranges=None, search="even", num=5, seed=None, steps=7):
    return experiment.Setting(
        data="tiny",
        source="tiny",
        train_examples=TRAIN,
        test_examples=10,
        model="softmax",
        parameters=8,
        method="momentum",
        decay="constant",
        budget=replace(BUDGET, steps=steps),
        ranges=ranges or {"learning_rate": RATES},
        fixed={"rho": 0.9},
        search=search,
        num=num,
        seed=seed,
    )


def make(hparams):
    return cs231n_optax.momentum(hparams["learning_rate"], hparams.get("rho", 0.9))


@jax.jit
def fit_of(learning_rate, seed):
    """What one configuration does from one seed, through the public functions alone."""
    data, network = TASK.dataset, TASK.network
    init_key, batch_key = jax.random.split(jax.random.key(seed))

    def loss(params, batch):
        return cross_entropy(network.apply(params, batch[0]), batch[1])

    result = cs231n_optax.fit(
        loss,
        network.init(init_key),
        cs231n_optax.momentum(learning_rate, 0.9),
        (data.x_train, data.y_train),
        steps=BUDGET.steps,
        batch_size=BUDGET.batch_size,
        key=batch_key,
    )
    train_loss = loss(result.params, (data.x_train, data.y_train))
    test_accuracy = accuracy(network.apply(result.params, data.x_test), data.y_test)
    return train_loss, test_accuracy, result.history.loss


@pytest.fixture(scope="module")
def result():
    return experiment.run(make, TASK, setting(), batch_size=3)


# The computation.


def test_a_row_is_a_fit_of_its_own(result):
    np.testing.assert_allclose(result.hparams["learning_rate"], np.geomspace(1e-3, 10, 5))
    for row in (0, 3):
        fits = [fit_of(result.hparams["learning_rate"][row], seed) for seed in (0, 1)]
        train_loss, test_accuracy, curve = (np.mean(x, axis=0) for x in zip(*fits, strict=True))
        outcome = jax.tree.map(lambda column, row=row: column[row], result.outputs)
        np.testing.assert_allclose(outcome.train_loss, train_loss, rtol=1e-5)
        np.testing.assert_allclose(outcome.test_accuracy, test_accuracy, rtol=1e-5)
        np.testing.assert_allclose(outcome.curve, [curve[0], *curve], rtol=1e-5)
        assert outcome.diverged_at == -1


def test_a_long_run_with_divergence():
    """The curve has the means of blocks: 34 of 3 steps, and 1 of 1. Divergence never wins."""
    wide = setting({"learning_rate": Range(1e-2, 1e38, log=True)}, num=3, steps=103)
    outcome = experiment.run(make, TASK, wide, batch_size=1).outputs
    assert experiment.block_length(103) == 3
    assert outcome.curve.shape == (3, 1 + 35)
    assert np.isfinite(outcome.curve[0]).all()
    assert outcome.diverged_at[0] == -1
    assert outcome.diverged_at[-1] > 0
    assert np.isnan(outcome.train_loss[-1])
    assert np.isnan(outcome.test_accuracy[-1])
    lost = np.isnan(outcome.train_loss)
    assert not set(experiment.rank(cs231n_optax.SweepResult({}, outcome))) & set(*lost.nonzero())


def test_the_rates_of_a_race_are_tuned_on_a_seed_of_their_own():
    tuning = Tuning(runs=4, lowest=1e-3, highest=10.0, seed=2)
    heard = []
    rate = experiment.tune(make, TASK, BUDGET, tuning, heard.append)
    rates = np.geomspace(1e-3, 10, 4)
    losses = [float(fit_of(x, 2)[0]) for x in rates]
    assert rate == pytest.approx(rates[np.argmin(losses)])
    assert [news.num_finished for news in heard][:: len(heard) - 1] == [0, 4]


def test_a_method_that_always_diverges_gets_the_lowest_rate():
    tuning = Tuning(runs=2, lowest=1e37, highest=1e38, seed=2)
    assert experiment.tune(make, TASK, BUDGET, tuning) == 1e37


# The search.


def test_one_range_is_cut_evenly():
    rows = experiment.configurations(setting(num=3))
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 0.1, 10])
    rows = experiment.configurations(setting({"rho": Range(0.0, 0.9, log=False)}, num=4))
    assert [row["rho"] for row in rows] == pytest.approx([0, 0.3, 0.6, 0.9])


def test_a_grid_has_every_combination():
    ranges = {"learning_rate": Range(0.01, 1.0, log=True), "rho": Range(0.0, 0.9, log=False)}
    rows = experiment.configurations(setting(ranges, "grid", num=9))
    pairs = [(round(row["learning_rate"], 9), round(row["rho"], 9)) for row in rows]
    assert pairs == [(x, y) for x in (0.01, 0.1, 1) for y in (0, 0.45, 0.9)]


@pytest.mark.parametrize("num", [2, 5, 64])
def test_a_random_search_covers_every_range_evenly(num):
    ranges = {"learning_rate": RATES, "rho": Range(0.0, 0.9, log=False)}
    rows = experiment.configurations(setting(ranges, "random", num, seed=3))
    assert len(rows) == num
    assert rows == experiment.configurations(setting(ranges, "random", num, seed=3))
    assert rows != experiment.configurations(setting(ranges, "random", num, seed=4))
    if num == 64:  # one in each of 64 equal parts
        shares = np.log([row["learning_rate"] / RATES.low for row in rows]) / np.log(1e4)
        assert sorted(np.floor(64 * shares)) == list(range(64))
        shares = np.array([row["rho"] for row in rows]) / 0.9
        assert sorted(np.floor(64 * shares)) == list(range(64))


# What is told.


def made_up(hparams, losses):
    losses = np.array(losses)
    curve = np.linspace(2.0, np.nan_to_num(losses, nan=9.0), 8).T
    curve[np.isnan(losses), 3:] = np.nan
    diverged_at = np.where(np.isnan(losses), 3, -1)
    outcome = Outcome(losses, np.full(len(losses), 0.5), diverged_at, curve)
    columns = {name: np.array(column) for name, column in hparams.items()}
    return cs231n_optax.SweepResult(columns, outcome)


def told(*args, tell=report.conclude):
    console = Console(file=io.StringIO(), width=100)
    tell(*args, console)
    return console.file.getvalue()


def test_the_best_ten_come_in_order():
    losses = [0.5, np.nan, *np.linspace(0.1, 0.2, 12)]
    rates = np.geomspace(1e-3, 10, 14)
    text = told(setting(num=14), made_up({"learning_rate": rates}, losses))
    rows = [line.split() for line in text.splitlines() if line.split()[-1:] == ["50.0"]]
    assert [row[0] for row in rows] == [str(place) for place in range(1, 11)]
    assert [float(row[1]) for row in rows] == pytest.approx(rates[2:12], rel=1e-3)
    assert [float(row[2]) for row in rows] == pytest.approx(losses[2:12], rel=1e-3)
    assert "Diverged: 1 of 14 configurations, which never win." in text
    assert "end of its range" not in text
    assert text.endswith("Best: learning_rate 0.004125.\n")


def test_an_end_of_the_range_is_told():
    text = told(setting(num=3), made_up({"learning_rate": [1e-3, 0.1, 10]}, [3.0, 2.0, 1.0]))
    assert "The best learning_rate is an end of its range: a better one may lie beyond." in text


def test_nothing_wins_if_all_diverged():
    text = told(setting(num=2), made_up({"learning_rate": [1.0, 10.0]}, [np.nan, np.nan]))
    assert "Diverged: 2 of 2 configurations" in text
    assert "Nothing wins" in text


def test_the_bar_is_a_line_a_tenth_in_a_pipe():
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    pipe = Console(file=io.StringIO(), width=100)
    for console in (terminal, pipe):
        with report.Bar(setting(num=40), console) as bar:
            for done in (0, 3, 5, 40):
                so_far = made_up({"learning_rate": [1.0] * done}, [0.125] * done)
                bar.update(cs231n_optax.SweepProgress(done, so_far))
    assert "40/40" in terminal.file.getvalue()
    assert "best train loss 0.125" in terminal.file.getvalue()
    assert pipe.file.getvalue() == (
        "momentum: 5 of 40, best train loss 0.125\nmomentum: 40 of 40, best train loss 0.125\n"
    )


def test_json_is_strict(result, tmp_path):
    def refuse(constant):
        raise AssertionError(constant)

    for name, study in (("real", result), ("lost", made_up({"learning_rate": [1.0]}, [np.nan]))):
        (tmp_path / name).mkdir()
        report.write(tmp_path / name, setting(num=len(study.outputs.curve)), study)
        text = (tmp_path / name / "sweep.json").read_text()
        document = json.loads(text, parse_constant=refuse)
        ranges = {"learning_rate": {"low": 1e-3, "high": 10.0, "log": True}}
        assert document["configuration"]["ranges"] == ranges
        assert document["versions"]["jax"] == jax.__version__
        assert document["devices"] == jax.device_count()
    assert document["best"] == []


# The pictures.

LOSSES = [2.3, 1.0, 0.1, 0.5, 3.0, np.nan]
SIX = np.geomspace(1e-3, 10, 6)
RHO = Range(0.0, 0.99, log=False)
STUDIES = {
    "rates": (["learning_rate"], "even", LOSSES),
    "another": (["rho"], "even", LOSSES),
    "map": (["learning_rate", "rho"], "random", LOSSES),
    "three": (["learning_rate", "rho", "b1"], "random", LOSSES),
    "four": (["learning_rate", "rho", "b1", "b2"], "random", LOSSES),
    "all finite": (["learning_rate"], "even", [2.3, 1.0, 0.1, 0.5, 3.0, 4.0]),
    "all lost": (["learning_rate"], "even", [np.nan] * 6),
    "all lost in a map": (["learning_rate", "rho"], "random", [np.nan] * 6),
    "all lost in three": (["learning_rate", "rho", "b1"], "random", [np.nan] * 6),
    "zero": (["learning_rate"], "even", [2.3, 1.0, 0.0, 0.5, 3.0, 4.0]),
    "zero in a map": (["learning_rate", "rho"], "random", [2.3, 1.0, 0.0, 0.5, 3.0, 4.0]),
    "level": (["learning_rate", "rho"], "random", [1.0] * 6),
}


@pytest.mark.parametrize("study", STUDIES)
def test_the_picture(study, tmp_path):
    names, search, losses = STUDIES[study]
    ranges = {name: RATES if name == "learning_rate" else RHO for name in names}
    points = {name: SIX if name == "learning_rate" else SIX / 11 for name in names}
    chosen = setting(ranges, search, num=6, seed=0)
    figure = picture.picture(chosen, made_up(points, losses))
    figure.savefig(tmp_path / "sweep.png")
    pixels = matplotlib.image.imread(tmp_path / "sweep.png")[..., :3]
    assert pixels.shape[1] == 1200
    assert 400 < pixels.shape[0] < 1000
    inside = pixels[100:-150, 200:-200]
    assert np.mean(np.any(inside < 0.8, axis=-1)) > 2e-4
    panels = 1 if names == ["rho"] else max(2, len(names))  # a map has its scale, too
    assert len(figure.axes) == panels


def test_a_diverged_row_is_a_cross_at_the_top():
    axes = Figure().subplots()
    picture.curve(axes, SIX, np.array(LOSSES), xlabel="learning rate")
    drawn, crosses = axes.lines
    np.testing.assert_allclose(drawn.get_xdata(), SIX)
    np.testing.assert_array_equal(drawn.get_ydata(), LOSSES)
    assert crosses.get_label() == "diverged"
    np.testing.assert_allclose(crosses.get_xdata(), SIX[-1:])
    top = axes.transAxes.inverted().transform(crosses.get_transform().transform([(10, 0.97)]))
    assert top[0, 1] == pytest.approx(0.97)
    low, high = axes.get_xlim()
    assert low < SIX[0] < SIX[-1] < high


def test_a_grid_is_drawn_as_tiles():
    x, y = (axis.reshape(-1) for axis in np.meshgrid([0.01, 0.1, 1], [0.0, 0.5]))
    loss = np.array([1.0, 2, 3, 4, 5, np.nan])
    order = np.random.default_rng(0).permutation(6)
    axes = Figure().subplots()
    tiles = picture.heat_map(
        axes, x[order], y[order], loss[order], xlabel="α", ylabel="ρ", yscale="linear"
    )
    values = np.ma.filled(tiles.get_array(), np.nan)
    np.testing.assert_array_equal(values, loss.reshape(2, 3))
    edges = tiles.get_coordinates()
    np.testing.assert_allclose(edges[0, :, 0], 10 ** np.array([-2.5, -1.5, -0.5, 0.5]))
    np.testing.assert_allclose(edges[:, 0, 1], [-0.25, 0.25, 0.75])


@pytest.mark.parametrize("grid", [True, False])
def test_the_star_of_the_best_has_the_colour_of_its_loss(grid):
    x, y = (axis.reshape(-1) for axis in np.meshgrid([0.01, 0.1, 1], [0.1, 0.5]))
    loss = np.array([4.0, 2, 3, 0.5, 5, np.nan])
    figure = Figure()
    axes = figure.subplots()
    y = y if grid else y + np.arange(6) / 100
    shades = picture.heat_map(axes, x, y, loss, xlabel="α", ylabel="ρ", yscale="linear")
    figure.savefig(io.BytesIO())
    (star,) = (marks for marks in axes.collections if marks.get_label() == "best")
    np.testing.assert_allclose(star.get_offsets(), [[x[3], y[3]]])
    np.testing.assert_allclose(star.get_facecolor(), [shades.to_rgba(0.5)])


def test_the_lectures_four_rates():
    rates = np.array([1e-3, 1e-2, 1e-1, 1, 10, 100])
    chosen = picture.representative_rows(rates, np.array([2.0, 0.5, 0.1, 0.3, np.nan, np.nan]))
    assert chosen == {"very high": 4, "high": 3, "good": 2, "low": 1}
    shuffled = np.array([3, 0, 5, 1, 2, 4])
    losses = np.array([2.0, 0.5, 0.1, 0.3, np.nan, np.nan])[shuffled]
    again = picture.representative_rows(rates[shuffled], losses)
    assert {word: rates[shuffled][row] for word, row in again.items()} == {
        word: rates[row] for word, row in chosen.items()
    }
    finite = picture.representative_rows(rates, np.array([2.0, 0.5, 0.1, 0.3, 2.0, 5.0]))
    assert finite == {"very high": 5, "high": 3, "good": 2, "low": 1}
    assert picture.representative_rows(rates[:2], np.array([1.0, 2.0])) == {
        "very high": 1,
        "good": 0,
    }
    assert picture.representative_rows(rates[:2], np.array([np.nan, np.nan])) == {"very high": 0}
