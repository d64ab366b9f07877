"""The experiment on L-BFGS with mini-batches: its rule by hand, and a tiny run that goes on."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax.cli import main
from cs231n_optax.experiments.minibatch import experiment, report, run, verdict, workloads
from cs231n_optax.experiments.minibatch.experiment import METHODS, Method, Result, Run, Size

SPREAD = np.array([-0.01, 0.0, 0.01, 0.02, -0.02])  # standard error 0.0071


def result(exponent, test=None):
    """A result whose log10 of the loss is about ``exponent``, with a little of a spread."""
    train, test = 10 ** (exponent + SPREAD), 10 ** ((exponent if test is None else test) - SPREAD)
    return Result(0.1, [], [], Run(train, test, np.full(5, np.nan), np.ones((5, 1))))


def cell(ours, adam=-1.0, other=-0.5, test=None):
    return {"adam": result(adam), "adam-1e-3": result(other), "sqn": result(ours, test)}


def decide(autoencoder, large, others):
    cells = {("autoencoder", 128): autoencoder, ("teacher", 1024): large}
    cells |= {("softmax", i): each for i, each in enumerate(others)}
    return verdict.decide(cells)


BETTER, EQUAL, WORSE = cell(-1.2), cell(-1.0), cell(-0.8)


@pytest.mark.parametrize(
    ("autoencoder", "large", "others", "holds"),
    [
        (BETTER, BETTER, [EQUAL, WORSE], True),
        (BETTER, BETTER, [EQUAL, WORSE, WORSE], False),
        (EQUAL, BETTER, [BETTER, BETTER], False),
        (BETTER, EQUAL, [BETTER, BETTER], False),
        (cell(-1.2, test=-1.0), BETTER, [BETTER], False),  # its test loss is no better
        (cell(-1.2, other=-1.3), BETTER, [BETTER], False),  # the better Adam counts
    ],
)
def test_the_rule(autoencoder, large, others, holds):
    assert decide(autoencoder, large, others).holds == holds


def test_two_standard_errors():
    error = SPREAD.std(ddof=1) / np.sqrt(5)
    near = verdict.Difference(-2 * error * 0.99, error)
    assert not near.wins
    assert verdict.Difference(-2 * error * 1.01, error).wins
    assert verdict.Difference(2 * error * 0.99, error).keeps_up
    assert not verdict.Difference(2 * error * 1.01, error).keeps_up


def test_a_run_that_diverged_counts_as_the_worst():
    np.testing.assert_array_equal(
        experiment.log_loss([np.nan, np.inf, 0.0, 100.0, 1e-30]), [6, 6, -12, 2, -12]
    )


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_every_workload_can_be_trained(name):
    """On the largest batch size; as JAX sees it, without compiling."""
    workload = workloads.WORKLOADS[name]()
    params = workload.init(jax.random.key(0))
    assert len(jax.tree.leaves(workload.train)[0]) >= max(run.SIZES["full"].batch_sizes)
    for examples in (workload.train, workload.measured, workload.test):
        assert jax.eval_shape(workload.loss, params, examples).shape == ()
    if workload.error is not None:
        assert jax.eval_shape(workload.error, params, workload.test).shape == ()


def test_noisy_labels():
    """A fifth of the labels are drawn anew, of which a tenth stays right by chance."""
    clean, noisy = (workloads.WORKLOADS[name]() for name in ("mlp-digits", "noisy-labels"))
    changed = np.mean(clean.train[1] != noisy.train[1])
    assert 0.15 < changed < 0.21
    np.testing.assert_array_equal(clean.test[1], noisy.test[1])


def test_growing_batches_keep_to_the_budget(monkeypatch):
    """Counted in examples, in stages of equal shares: 8, 16, 32, ... of 96 examples."""
    spent = []

    def fit(loss, params, tx, data, *, steps):
        spent.append((len(data), steps))
        return cs231n_optax.fit(loss, params, tx, data, steps=0)

    monkeypatch.setattr(experiment, "fit", fit)
    workload = workloads.quadratic()
    workload = workload._replace(train=workload.train[:96])
    task = experiment.Task(workload, 8, 500)
    experiment.by_growing_batches(task, 1.0, workload.init(jax.random.key(0)), jax.random.key(1))
    sizes, steps = np.array(spent).T
    np.testing.assert_array_equal(sizes, [8, 16, 32, 64, 96])
    assert 0.9 * 8 * 500 < np.sum(sizes * steps) <= 8 * 500


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (0.1, [0.01, 0.1, 1]),
        (10, [0.01, 0.1, 1, 10, 100]),
        (1e-4, [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1]),
        (1e9, [0.01, 0.1, 1, 10, 100, 1e3, 1e4]),  # given up
    ],
)
def test_the_range_of_rates_goes_on_beyond_an_end_that_is_best(best, tried):
    def train(task, rate, params, key):
        return 1 + jnp.abs(jnp.log10(rate) - np.log10(best)) + params, jnp.zeros(1)

    def loss(params, batch):
        return params

    workload = workloads.Workload(lambda key: jnp.zeros(()), loss, None, None, None, None)
    size = Size(10, 4, 3, 2, (8,), ())
    result = experiment.measure(Method(train, 0.01, 1.0), workload, 8, size, lambda: None)
    np.testing.assert_allclose(result.rates, tried)
    np.testing.assert_allclose(result.rate, min(best, tried[-1]))


@pytest.fixture
def tiny(monkeypatch):
    size = Size(20, 2, 2, 1, (8,), ("quadratic",))
    monkeypatch.setitem(run.SIZES, "quick", size)
    few = {name: METHODS[name] for name in ("adam", "adam-1e-3", "sqn")}
    monkeypatch.setattr(run, "METHODS", few)
    monkeypatch.setattr(report, "METHODS", few)
    monkeypatch.setattr(report, "FORMS", {"sqn": report.FORMS["sqn"]})
    return size


def test_a_run_and_another_that_reads_it(tiny, tmp_path, monkeypatch, capsys):
    """Three methods are compiled, which may take more than five seconds."""
    assert main(["minibatch", "--quick", "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*report.FILES, "minibatch-quick"}
    text = (tmp_path / report.TABLE).read_text()
    assert text.startswith("No verdict")
    assert "| quadratic | 8 |" in text
    assert re.search(r"\| quadratic \| \d", text)  # the noise scale
    document = json.loads((tmp_path / report.JSON).read_text())
    assert [each["method"] for each in document["results"]] == list(run.METHODS)
    for each in document["results"]:
        assert len(each["train_loss"]) == tiny.seeds
        assert np.isfinite(each["train_loss"]).all()
    tuned = json.loads((tmp_path / "minibatch-quick" / "quadratic-8-adam.json").read_text())
    assert tuned["rate"] == tuned["rates"][np.argmin(tuned["tuned"])]
    assert {1e-4, 0.3} <= set(tuned["rates"])

    def measure(*_):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(experiment, "measure", measure)
    assert main(["minibatch", "--quick", "--quiet", "--out", str(tmp_path)]) == 0
    assert (tmp_path / report.TABLE).read_text() == text


def test_a_missing_package(tiny, tmp_path, monkeypatch, capsys):
    def missing():
        raise ImportError("no such package")

    monkeypatch.setitem(workloads.WORKLOADS, "quadratic", missing)
    assert main(["minibatch", "--quick", "--out", str(tmp_path)]) == 2
    assert "quadratic: no such package" in capsys.readouterr().err


def test_an_interrupted_run_keeps_what_is_finished(tiny, tmp_path, monkeypatch, capsys):
    names = []

    def measure(method: Method, *_):
        names.append(next(name for name, each in METHODS.items() if each is method))
        if len(names) == 2:
            raise KeyboardInterrupt
        return result(-1.0)

    monkeypatch.setattr(experiment, "measure", measure)
    assert main(["minibatch", "--quick", "--out", str(tmp_path)]) != 0
    assert "0 of 1 finished" in capsys.readouterr().err
    assert len(list((tmp_path / "minibatch-quick").iterdir())) == 1  # and nothing of the noise
    assert main(["minibatch", "--quick", "--out", str(tmp_path)]) == 0
    assert names == ["adam", "adam-1e-3", "adam-1e-3", "sqn"]
    assert (tmp_path / "minibatch-quick" / "quadratic-noise.json").exists()


def test_the_published_verdict_follows_from_the_published_numbers():
    """The first condition, by hand; `sqn` stays out of the public names."""
    folder = pathlib.Path(__file__).parents[2] / "docs" / "minibatch"
    document = json.loads((folder / report.JSON).read_text())
    assert len(document["results"]) == 8 * 3 * 7
    losses = {
        each["method"]: np.log10(each["train_loss"])
        for each in document["results"]
        if (each["workload"], each["batch_size"]) == ("autoencoder", 128)
    }
    adam = min(losses["adam"], losses["adam-1e-3"], key=np.mean)
    change = losses["sqn"] - adam
    wins = np.mean(change) < -2 * np.std(change, ddof=1) / np.sqrt(10)
    assert not wins
    assert "does not hold" in document["verdict"]
    assert (folder / report.TABLE).read_text().startswith(document["verdict"])
    assert "sqn" not in cs231n_optax.__all__
