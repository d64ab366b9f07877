"""The protocol: its statistics by hand, equal budgets, and a tiny race through the command."""

import csv
import json
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax import cli
from cs231n_optax.experiments.catalog import METHODS
from cs231n_optax.experiments.protocol import (
    experiment,
    profiles,
    report,
    run,
    targets,
    tuning,
)
from cs231n_optax.experiments.protocol.experiment import RACE, SIZES, Size
from cs231n_optax.experiments.protocol.workloads import WORKLOADS, noisy_quadratic
from cs231n_optax.problems import datasets

NEVER = np.inf
# Three methods on four workloads; the third is reached by nobody, the fourth by the second alone.
TIMES = np.array(
    [
        [10.0, 40.0, NEVER, NEVER],
        [20.0, 20.0, NEVER, 7.0],
        [30.0, NEVER, NEVER, NEVER],
    ]
)


def test_ratios_by_hand():
    expected = [[1, 2, NEVER, NEVER], [2, 1, NEVER, 1], [3, NEVER, NEVER, NEVER]]
    np.testing.assert_array_equal(profiles.ratios(TIMES), expected)


def test_profile_by_hand():
    shares = profiles.profile(TIMES, np.array([1, 1.9, 2, 3, 100]))
    np.testing.assert_array_equal(
        shares, [[0.25, 0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.75, 0.75, 0.75], [0, 0, 0, 0.25, 0.25]]
    )


def test_area_by_hand():
    # To the limit 4 the first method has (3 + 2) / 4 of a length 3, and so on.
    np.testing.assert_allclose(profiles.area(TIMES), np.array([5, 8, 1]) / 4 / 3)


def test_area_is_the_integral_of_the_profile():
    rng = np.random.default_rng(0)
    times = np.where(rng.random((5, 9)) < 0.2, NEVER, rng.uniform(1, 6, (5, 9)))
    taus = np.linspace(1, 3, 200_001)
    integral = np.trapezoid(profiles.profile(times, taus), taus, axis=1) / 2
    np.testing.assert_allclose(profiles.area(times, limit=3), integral, atol=1e-4)


def test_the_fastest_everywhere_has_the_area_one():
    np.testing.assert_array_equal(profiles.area(np.array([[1.0, 2], [9, 9]])), [1, 0])


def test_interval_of_equal_seeds_is_a_point():
    times = np.repeat(TIMES[..., None], 5, axis=-1)
    ends = profiles.interval(times, profiles.area)
    np.testing.assert_allclose(ends, np.stack([profiles.area(TIMES)] * 2))


def test_interval_of_a_median():
    """Against the distribution of a resampled median of three: P(smallest) = P(largest) = 7/27."""
    times = np.array([[[1.0, 2.0, NEVER]]])
    low, high = profiles.interval(times, lambda medians: medians)
    assert (low.item(), high.item()) == (1, NEVER)
    share = profiles.interval(times, lambda medians: (medians == NEVER).mean(axis=0))
    np.testing.assert_allclose(share, 7 / 27, atol=0.04)


def test_steps_to_a_target():
    curves = np.array([[3.0, 1, 2], [3, 3, 1], [NEVER, NEVER, NEVER]])
    np.testing.assert_array_equal(experiment.steps_to(1.0, curves, every=10), [20, 30, NEVER])
    np.testing.assert_array_equal(experiment.steps_to(0.5, curves, every=10), [NEVER] * 3)


def test_the_best_setting_is_the_first_at_the_target():
    curves = np.array([[3.0, 0.9, 0.1], [0.99, 3, 3], [3, 0.1, 0.05]])
    trials = np.stack([curves, curves], axis=1)
    assert experiment.soonest(1.0, trials) == 1
    assert experiment.soonest(0.9, trials) == 2  # two are as fast: the lower loss decides
    assert experiment.soonest(0.01, trials) == 2
    trials[2, 1], trials[1, 1] = 3, NEVER  # lucky from one seed, not from the other
    assert experiment.soonest(1.0, trials) == 0


def test_target_of_made_up_curves():
    slow = [[5.0, 4, 0, 0], [5, 4, 0, 0], [9, 9, 0, 0]]  # low only in the second half
    fast = [[5.0, 3.00001, 8, 8], [2, 9, 9, 9], [NEVER, NEVER, NEVER, NEVER]]
    assert targets.target([np.array(slow), np.array(fast)]) == 3
    assert targets.lowest(np.array([slow, fast])) == 1
    assert targets.lowest(np.array([slow, np.full((3, 4), NEVER)])) == 0


@pytest.mark.parametrize("size", SIZES)
def test_committed_targets(size):
    goals = targets.read(size)
    assert goals.keys() == WORKLOADS.keys()
    assert all(0 < goal < np.log(10) for goal in goals.values())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_seeds_of_targets_tuning_and_race_differ(size):
    used = [
        seed
        for each in (RACE, experiment.TARGETS)
        for first, count in ((each.runs, size.seeds), (each.trials, size.repeats))
        for seed in range(first, first + count)
    ]
    assert len(used) == len(set(used))
    assert size.seeds >= 10


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_sizes_are_whole(size):
    assert size.tuning_runs % size.seeds == 0
    for make in WORKLOADS.values():
        assert make.keywords["steps"] % (size.shortening * size.evaluations) == 0


@pytest.mark.parametrize("method", METHODS)
def test_settings_fill_their_ranges(method):
    columns = tuning.settings(method, 300, seed=5)
    assert {len(column) for column in columns.values()} == {300}
    for name, (low, high, from_one) in tuning.SPACES[method].items():
        x = 1 - columns[name] if from_one else columns[name]
        quantiles = np.log(x / low) / np.log(high / low)
        np.testing.assert_allclose(np.sort(quantiles), np.arange(0.5, 300) / 300, atol=0.03)
    speed = columns["decay_speed"]
    assert np.mean(speed == 0) == pytest.approx(1 / 3, abs=0.02)
    assert np.mean(columns["is_cosine"]) == pytest.approx(1 / 3, abs=0.02)
    assert speed[speed > 0].min() >= 1
    assert speed.max() <= 4


def test_every_hyperparameter_is_tuned():
    assert tuning.SPACES.keys() == METHODS.keys()
    assert {"learning_rate", "b1", "b2", "eps"} == tuning.SPACES["adam"].keys()
    rates = [space["learning_rate"] for space in tuning.SPACES.values()]
    np.testing.assert_allclose([rate.high / rate.low for rate in rates], 1000)


@pytest.mark.parametrize(
    ("speed", "is_cosine", "rate"),
    [
        (0, 0, lambda t: np.ones(9)),
        (0, 1, lambda t: np.ones(9)),
        (2, 0, lambda t: 0.01 + 0.99 * np.maximum(1 - t / 4, 0)),
        (1, 1, lambda t: 0.01 + 0.99 * (1 + np.cos(np.pi * np.minimum(t / 8, 1))) / 2),
    ],
)
def test_schedule(speed, is_cosine, rate):
    """The updates of sgd on a constant gradient of 1 are the rates."""
    setting = {"learning_rate": 0.3, "decay_speed": speed, "is_cosine": is_cosine}
    tx = tuning.make("sgd", setting, steps=8)
    _, updates = jax.lax.scan(
        lambda state, g: tx.update(g, state)[::-1], tx.init(jnp.ones(())), jnp.ones(9)
    )
    np.testing.assert_allclose(-updates, 0.3 * rate(np.arange(9)), rtol=1e-5)


def test_noisy_quadratic():
    quadratic = noisy_quadratic(steps=1)
    batch_grad = jax.grad(quadratic.loss)
    hessian = jax.hessian(quadratic.loss)(jnp.ones(100), quadratic.train)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(hessian), 1 / np.arange(100, 0, -1), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(batch_grad(jnp.zeros(100), quadratic.train), 0, atol=1e-5)
    grads = jax.vmap(lambda x: batch_grad(jnp.zeros(100), x[None]))(quadratic.train)
    np.testing.assert_allclose(np.cov(grads.T), hessian, atol=0.1)
    theta = np.linspace(-1, 1, 100, dtype=np.float32)
    exact = theta @ np.asarray(hessian) @ theta / 2
    assert quadratic.loss(theta, quadratic.validation[0]) == pytest.approx(exact, rel=1e-3)


def test_validation_has_all_examples():
    digits = WORKLOADS["softmax-digits"]()
    x, y = digits.validation
    data = datasets.digits()
    np.testing.assert_array_equal(x.reshape(data.x_test.shape), data.x_test)
    np.testing.assert_array_equal(y.reshape(-1), data.y_test)


TINY = Size(shortening=1, evaluations=2, trials=3, repeats=2, seeds=2)


def tiny_quadratic():
    return noisy_quadratic(steps=4)


def test_a_run_is_that_of_fit():
    """A run among others, spread over devices, has the curve of a run alone."""
    workload = tiny_quadratic()
    arena = experiment.prepare(workload, TINY)
    program = experiment.compile_method(arena, "momentum")
    settings = {"learning_rate": [0.1, 0.2], "rho": [0.5, 0.9], "decay_speed": [0.0, 0.0]}
    settings = {name: np.array(column) for name, column in settings.items()}
    settings["is_cosine"] = np.zeros(2)
    curves = experiment.run(arena, program, settings, [3, 4], lambda: None)
    assert curves.shape == (2, 2)

    init_key, batch_key = jax.random.split(jax.random.key(4))
    tx = cs231n_optax.momentum(0.2, rho=0.9)
    alone = cs231n_optax.fit(
        workload.loss,
        workload.init(init_key),
        tx,
        workload.train,
        steps=4,
        batch_size=32,
        key=batch_key,
        evaluate=lambda params: workload.loss(params, workload.validation[0]),
        chunk_size=2,
    )
    np.testing.assert_allclose(curves[1], alone.history.evaluation, rtol=1e-4)


@pytest.fixture
def tiny_protocol(monkeypatch, tmp_path):
    """The command of a race of two methods on one workload of four steps."""
    monkeypatch.setattr(targets, "read", lambda size: {"quadratic": 45.0})
    monkeypatch.setitem(SIZES, "quick", TINY)
    methods, workloads = dict(METHODS), dict(WORKLOADS)
    _replace(METHODS, {name: methods[name] for name in ("sgd", "adam")})
    _replace(WORKLOADS, {"quadratic": tiny_quadratic})
    yield ["race", "--protocol", "--quick", "--out", str(tmp_path / "out")]
    _replace(METHODS, methods)
    _replace(WORKLOADS, workloads)


def _replace(table, rows):
    """Put other rows into a table, in their order."""
    table.clear()
    table.update(rows)


def test_a_tiny_race(tiny_protocol, tmp_path, capsys):
    assert cli.main(tiny_protocol) == 0
    out, _ = capsys.readouterr()
    assert "3 settings tried of each method on each workload, each from 2 seeds, then 2 ot" in out
    for name in report.FILES:
        assert str(tmp_path / "out" / name) in out
    document = json.loads((tmp_path / "out" / "protocol.json").read_text())
    assert document["complete"]
    on_quadratic = document["workloads"]["quadratic"]
    assert on_quadratic["target"] == 45
    spent = {
        (method["evaluations_of_tuning"], method["evaluations_of_race"])
        for method in on_quadratic["methods"].values()
    }
    assert spent == {(3 * 2 * 4, 2 * 4)}
    assert on_quadratic["methods"]["adam"]["setting"].keys() == {
        *("learning_rate", "b1", "b2", "eps", "schedule")
    }

    with open(tmp_path / "out" / "protocol.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"]) for row in rows] == [
        *(("sgd", "0"), ("sgd", "1"), ("adam", "0"), ("adam", "1"))
    ]
    for row in rows:
        reached = row["evaluations_to_target"]
        assert bool(reached) == (float(row["lowest_validation_loss"]) <= 45)
        if reached:
            per_step = on_quadratic["methods"][row["method"]]["seconds_per_step"]
            seconds = float(row["seconds_to_target"])
            assert seconds == pytest.approx(float(reached) * per_step)
    assert matplotlib.image.imread(tmp_path / "out" / "protocol.png").shape[1] == 1200

    # Once more: everything is read and nothing run.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "prepare", None)
        assert cli.main(tiny_protocol) == 0
    assert json.loads((tmp_path / "out" / "protocol.json").read_text()) == document


def pretend(arena, method, program, seeds, choose, progress):
    """A result without training."""
    progress()
    settings = tuning.settings(method, arena.size.trials, seeds.search)
    trials = np.ones((arena.size.trials, arena.size.repeats, arena.size.evaluations))
    trials[1] = NEVER
    curves = np.array([[2.0, 1.0], [2.0, NEVER]])
    return experiment.Result(settings, trials, choose(trials), curves)


def test_ctrl_c_and_on(tiny_protocol, monkeypatch, tmp_path, capsys):
    calls = []

    def interrupted_at_the_second(arena, method, *args, **options):
        calls.append(method)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pretend(arena, method, *args, **options)

    monkeypatch.setattr(experiment, "tune_and_run", interrupted_at_the_second)
    assert cli.main(tiny_protocol) == 130
    assert "not finished: quadratic; the same command goes on" in capsys.readouterr().err
    saved = tmp_path / "out" / "protocol-quick"
    assert [path.name for path in saved.iterdir()] == ["quadratic-sgd.json"]

    monkeypatch.setattr(experiment, "seconds_per_step", lambda *_: {"sgd": 1.0, "adam": 2.0})
    assert cli.main(tiny_protocol) == 0
    assert calls == ["sgd", "adam", "adam"]

    # Neither a broken file nor one of other targets is read again.
    (saved / "quadratic-adam.json").write_text("{")
    assert cli.main(tiny_protocol) == 0
    assert calls[3:] == ["adam"]
    monkeypatch.setattr(targets, "read", lambda size: {"quadratic": 44.0})
    assert cli.main(tiny_protocol) == 0
    assert calls[4:] == ["sgd", "adam"]


def test_a_saved_result_is_read_as_it_was(tmp_path):
    store = run.Store(tmp_path, {"source": "x"})
    arena = partial(experiment.Arena, size=TINY)(None, first_points=None, measure=None)
    result = pretend(arena, "adam", None, RACE, lambda _: 2, lambda: None)
    store.save("quadratic-adam", run.document(result))
    again = run.saved_result(store, "quadratic", "adam")
    jax.tree.map(np.testing.assert_array_equal, again, result)
    other = store._replace(identity={"source": "y"})
    assert run.saved_result(other, "quadratic", "adam") is None


@pytest.mark.parametrize(
    "options",
    [
        ["--data", "digits"],
        ["--model", "mlp"],
        ["--methods", "sgd,adam"],
        ["--steps", "5"],
        ["--batch-size", "8"],
        ["--seeds", "3"],
        ["--decay", "constant"],
        ["--learning-rate", "sgd=1"],
        ["--tune", "3"],
        ["--accuracy", "0.5"],
    ],
    ids=lambda options: options[0],
)
def test_options_that_the_protocol_decides(options, assert_refused, tmp_path):
    command = ["race", "--protocol", *options, "--out", str(tmp_path / "out")]
    assert_refused(command, f"{options[0]} is decided by --protocol")


def test_quick_is_of_the_protocol(assert_refused, tmp_path):
    assert_refused(["race", "--quick", "--out", str(tmp_path / "out")], "add --protocol")
