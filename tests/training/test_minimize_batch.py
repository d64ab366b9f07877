"""`minimize_batch`: the results of single runs, in order, at the cost of the runs that go on."""

import functools
import json
import logging
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import cs231n_optax as co
from cs231n_optax import Status

BFGS = co.bfgs()
RNG = np.random.default_rng(0)
STARTS = RNG.uniform(-2, 2, (23, 2))
STEEPNESS = np.exp(RNG.normal(1, 2, 23))


def valley(x, steepness=100.0):
    """Rosenbrock's function; the steeper, the more evaluations it takes. Its minimum is at ones."""
    return steepness * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def bowl(x, center):
    """Its minimum is at the center."""
    return jnp.sum(jnp.cosh(x - center))


def one_by_one(fun, x0, tx, args=(), **options):
    """A loop of single calls, stacked; without the state."""
    solve = jax.jit(lambda x, args: co.minimize(fun, x, tx, args=args, **options))
    rows = zip(jnp.asarray(x0), *map(jnp.asarray, args), strict=True)
    results = [solve(x, tuple(row))._replace(state=None) for x, *row in rows]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def assert_same_runs(result, expected, rtol=1e-5):
    """All but the state: the numbers of evaluations, too."""
    for name in ("status", "num_evals", "num_steps"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), name)
    for name in ("params", "value", "grad", "aux", "grad_norm", "tolerance"):
        pairs = zip(
            jax.tree.leaves(getattr(result, name)),
            jax.tree.leaves(getattr(expected, name)),
            strict=True,
        )
        for x, y in pairs:
            np.testing.assert_allclose(x, y, rtol, 1e-7, err_msg=name)


def compiled_rounds(caplog, call):
    """The number of programs of a round that a call compiles."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
    return sum("Compiling jit(advance)" in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("x64")
class TestSameAsSingleRuns:
    @pytest.mark.parametrize(
        "tx", [BFGS, co.lbfgs(), co.newton(), co.adam(0.1)], ids=["bfgs", "lbfgs", "newton", "adam"]
    )
    def test_results(self, tx):
        options = {"tol": 1e-4, "max_evals": 150}
        args = (STEEPNESS,)
        result = co.minimize_batch(valley, STARTS, tx, args=args, **options)
        expected = one_by_one(valley, STARTS, tx, args, **options)
        assert isinstance(result, co.MinimizeResult)
        assert_same_runs(result, expected, rtol=1e-6)
        assert len(set(expected.num_evals.tolist())) > 3

    @pytest.mark.parametrize("batch_size", [1, 5])
    def test_others_take_the_places_of_those_that_have_ended(self, batch_size):
        args = (STEEPNESS,)
        result = co.minimize_batch(
            valley, STARTS, BFGS, args=args, batch_size=batch_size, evals_per_round=7
        )
        assert_same_runs(result, one_by_one(valley, STARTS, BFGS, args), rtol=1e-6)

    def test_trees_and_auxiliary_output(self):
        """And arguments that the runs share, beside those that they have for themselves."""

        def fun(x, data, shared):
            residual = x["a"] - data["center"], x["b"] - shared["b"] - data["offset"]
            return sum(jnp.sum(jnp.cosh(r)) for r in residual), {"first": x["a"][0]}

        center, offset = RNG.normal(size=(3, 2)), RNG.normal(size=3)
        x0 = {"a": jnp.zeros(2), "b": jnp.float32(0)}
        args = ({"center": center, "offset": offset}, {"b": 2.0})
        result = co.minimize_batch(
            fun, x0, BFGS, args=args, in_axes=(None, 0, None), has_aux=True, tol=1e-5
        )
        assert result.success.all()
        np.testing.assert_allclose(result.params["a"], center, atol=1e-4)
        np.testing.assert_allclose(result.params["b"], 2 + offset, atol=1e-4)
        np.testing.assert_array_equal(result.aux["first"], result.params["a"][:, 0])
        assert result.params["b"].dtype == jnp.float32
        mixed = co.minimize_batch(
            fun,
            x0,
            BFGS,
            args=({"center": center, "offset": 1.0}, {"b": 2.0}),
            in_axes=(None, {"center": 0, "offset": None}, None),
            has_aux=True,
            tol=1e-5,
        )
        np.testing.assert_allclose(mixed.params["a"], center, atol=1e-4)
        np.testing.assert_allclose(mixed.params["b"], np.full(3, 3.0), atol=1e-4)


@functools.cache
def hard_run(number=40):
    """Sixty-four starts at the minimum and near it, but one from which Adam never arrives."""
    x0 = np.ones((64, 2), np.float32) + np.linspace(0, 0.01, 64, dtype=np.float32)[:, None]
    x0[number] = 1e6
    return x0


class TestEnds:
    def test_order(self):
        centers = RNG.permutation(np.arange(40.0))[:, None].astype(np.float32) / 10
        result = co.minimize_batch(bowl, np.zeros((40, 1), np.float32), BFGS, args=(centers,))
        assert result.success.all()
        np.testing.assert_allclose(result.params, centers, atol=1e-3)
        np.testing.assert_allclose(result.value, np.ones(40), rtol=1e-5)

    def test_a_run_that_never_converges_costs_the_others_nothing(self):
        evals = []

        def fun(x):
            jax.debug.callback(lambda x: evals.append(1), x)
            return jnp.sum((x - 1) ** 2)

        result = co.minimize_batch(
            fun, hard_run(), co.adam(0.01), tol=0.0, atol=1e-3, max_evals=400,
            mesh=jax.make_mesh((1,), ("d",)),
        )  # fmt: skip
        jax.effects_barrier()
        expected = np.full(64, Status.CONVERGED)
        expected[40] = Status.BUDGET
        np.testing.assert_array_equal(result.status, expected)
        assert result.num_evals[40] == 400
        others = int(np.max(np.delete(np.asarray(result.num_evals), 40)))
        assert others < 100
        assert len(evals) <= 64 * (others + 32) + 400 + 8 * 32  # it waits for 32 evaluations
        assert result.num_evals.sum() <= len(evals)

    def test_bad_starts_keep_their_status(self):
        x0 = np.zeros((9, 2), np.float32)
        x0[[2, 8]] = np.nan
        result = co.minimize_batch(bowl, x0, BFGS, args=(1.0,), in_axes=(0, None))
        expected = np.full(9, Status.CONVERGED)
        expected[[2, 8]] = Status.FAILED
        np.testing.assert_array_equal(result.status, expected)
        assert result.message == "9 runs: 7 CONVERGED; 2 FAILED (run 2, 8)."

    @pytest.mark.parametrize("num", [1, 9])
    def test_all_end_at_once(self, num):
        x0 = np.ones((num, 2), np.float32)
        result = co.minimize_batch(bowl, x0, BFGS, args=(1.0,), in_axes=(0, None))
        np.testing.assert_array_equal(result.status, np.full(num, Status.CONVERGED))
        np.testing.assert_array_equal(result.num_evals, np.ones(num))
        np.testing.assert_array_equal(result.params, x0)

    def test_frozen_leaves(self):
        tx = optax.partition(
            {"train": BFGS, "freeze": optax.set_to_zero()}, {"x": "train", "n": "freeze"}
        )
        x0 = {"x": np.zeros(5, np.float32), "n": np.arange(5)}
        result = co.minimize_batch(lambda p: jnp.cosh(p["x"] - p["n"]), x0, tx)
        np.testing.assert_allclose(result.params["x"], np.arange(5.0), atol=1e-3)
        np.testing.assert_array_equal(result.params["n"], np.arange(5))

    def test_strict_promotion(self):
        with jax.numpy_dtype_promotion("strict"):
            result = co.minimize_batch(lambda x: jnp.sum(x**4 + x), jnp.ones((3, 2)), BFGS)
        np.testing.assert_allclose(result.params, np.full((3, 2), -(0.25 ** (1 / 3))), atol=1e-3)


def slope(x, curvature):
    """Plain descent multiplies x by 1 - rate · curvature."""
    return curvature * x**2 / 2


SGD = co.sgd(0.5)


def test_one_compilation_for_each_size(caplog):
    """Of 600 runs: 600, 8 for the last five, and 1. A second call compiles and traces nothing."""
    traces = []

    def fun(x, curvature):
        traces.append(1)
        return slope(x, curvature)

    def call():
        curvatures = np.append(RNG.uniform(0.5, 1.5, 595), [0.1, 0.08, 0.06, 0.04, 0.02])
        curvatures = RNG.permutation(curvatures).astype(np.float32)
        x0 = np.full(600, 2.0, np.float32)
        mesh = jax.make_mesh((1,), ("d",))
        result = co.minimize_batch(fun, x0, SGD, args=(curvatures,), tol=0, atol=1e-4, mesh=mesh)
        # After k steps the gradient is 2 a (1 - a / 2)ᵏ.
        steps = np.log(1e-4 / (2 * curvatures)) / np.log1p(-curvatures / 2)
        np.testing.assert_allclose(result.num_evals, 1 + np.ceil(steps), atol=1)

    assert compiled_rounds(caplog, call) == 3
    traced = len(traces)
    assert compiled_rounds(caplog, call) == 0
    assert len(traces) == traced


COUNTS = ("num_ended", "num_evals", "seconds")


@pytest.mark.usefixtures("x64")
class TestStops:
    def solve(self, callback=None, **options):
        options = {"evals_per_round": 4, "mesh": jax.make_mesh((1,), ("d",))} | options
        return co.minimize_batch(
            valley, STARTS, BFGS, args=(STEEPNESS,), callback=callback, **options
        )

    def test_progress(self):
        seen = []
        result = self.solve(seen.append)
        ended, evals, seconds = ([getattr(p, name) for p in seen] for name in COUNTS)
        assert ended == sorted(ended)
        assert evals == sorted(set(evals))
        assert seconds == sorted(seconds)
        assert seconds[0] > 0
        assert {p.num_runs for p in seen} == {23}
        assert ended[0] < 23
        last = seen[-1]
        assert (last.num_ended, last.num_evals) == (23, result.num_evals.sum())
        np.testing.assert_array_equal(last.status, result.status)
        np.testing.assert_array_equal(last.value, result.value)

    def test_stop_after_the_best_have_converged(self):
        full = self.solve()
        result = self.solve(lambda p: p.best_converged(2))
        ended = np.asarray(result.status) == Status.CONVERGED
        assert 2 <= ended.sum() < 23
        assert set(np.asarray(result.status)[~ended]) == {Status.STOPPED}
        best = np.argsort(result.value)[:2]
        assert ended[best].all()
        np.testing.assert_array_equal(result.num_evals[ended], full.num_evals[ended])
        assert (result.num_evals[~ended] < full.num_evals[~ended]).all()

    def test_stop_after_some_evaluations(self):
        result = self.solve(lambda p: p.num_evals >= 100)
        assert 100 <= result.num_evals.sum() < 100 + 4 * 23

    def test_runs_that_have_not_begun(self):
        result = self.solve(lambda p: True, batch_size=4)
        waiting = np.asarray(result.num_evals) == 0
        assert waiting.sum() == 23 - 4
        np.testing.assert_array_equal(result.params[waiting], STARTS[waiting])
        assert np.isinf(result.value[waiting]).all()
        assert set(np.asarray(result.status)) == {Status.STOPPED}

    @pytest.mark.parametrize(
        "tx", [BFGS, co.lbfgs(), co.newton(), co.adam(0.1)], ids=["bfgs", "lbfgs", "newton", "adam"]
    )
    @pytest.mark.parametrize("by", ["callback", "budget"])
    def test_resumes_exactly(self, tx, by):
        def solve(x0, **options):
            return co.minimize_batch(
                valley, x0, tx, args=(STEEPNESS,), tol=1e-4, evals_per_round=5, **options
            )

        full = solve(STARTS, max_evals=40)
        if by == "callback":
            part = solve(STARTS, max_evals=40, callback=lambda p: p.num_evals > 200)
            assert Status.STOPPED in part.status
        else:
            part = solve(STARTS, max_evals=9)
            assert part.num_evals.max() == 9
        for _ in range(2):  # the state may be used again
            resumed = solve(np.zeros_like(STARTS), max_evals=40, state=part.state)
            assert_same_runs(resumed, full, rtol=1e-6)

    def test_nothing_is_left_to_resume(self):
        seen = []
        full = self.solve()
        assert_same_runs(self.solve(seen.append, state=full.state), full, rtol=0)
        assert seen == []


def test_what_is_given_stays():
    """The buffers of the runs are reused, but not those of the caller."""
    x0, curvature = jnp.ones(5), jnp.ones(5)
    result = co.minimize_batch(slope, x0, SGD, args=(curvature,))
    co.minimize_batch(slope, x0, SGD, args=(curvature,), state=result.state)
    np.testing.assert_array_equal(x0, np.ones(5))
    np.testing.assert_array_equal(curvature, np.ones(5))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(result))


def test_several_devices_agree_with_one():
    """Four devices in a process of their own, with 23 runs that they can't divide."""
    here = pathlib.Path(__file__)
    ran = subprocess.run(
        [sys.executable, here.with_name("batch_on_devices.py")],
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "PYTHONPATH": os.pathsep.join([str(here.parents[2]), str(here.parents[1])]),
        },
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    one, four = report["one"], report["four"]
    assert (one["devices"], four["devices"]) == (1, 4)
    assert one["num_evals"] == four["num_evals"]
    assert one["status"] == four["status"]
    np.testing.assert_allclose(one["params"], four["params"], rtol=1e-6)


def test_a_mesh_that_the_caller_has_set():
    """With explicit axes, which make shardings a part of the types."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x0 = jax.device_put(jnp.full(6, 2.0), NamedSharding(mesh, PartitionSpec("d")))
        result = co.minimize_batch(slope, x0, SGD, args=(1.0,), in_axes=(0, None))
    np.testing.assert_array_equal(result.status, np.full(6, Status.CONVERGED))


X0 = np.zeros((4, 2), np.float32)
BAD = {
    "fun": (TypeError, {"fun": 3}),
    "tx": (TypeError, {"tx": 3}),
    "tol": (ValueError, {"tol": -1.0}),
    "atol": (ValueError, {"atol": -1.0}),
    "max_evals": (ValueError, {"max_evals": 0}),
    "callback": (TypeError, {"callback": 3}),
    "batch_size": (ValueError, {"batch_size": 0}),
    "evals_per_round": (ValueError, {"evals_per_round": 0}),
    "mesh": (TypeError, {"mesh": 3}),
    "has_aux": (TypeError, {"has_aux": 1}),
    "args": (TypeError, {"args": 1.0}),
    "args[0]": (ValueError, {"args": (np.zeros((5, 2)),)}),
    "args[0]['a']": (ValueError, {"args": ({"a": 1.0},)}),
    "x0": (ValueError, {"x0": np.zeros((0, 2), np.float32)}),
    "x0[1]": (ValueError, {"x0": [X0, np.float32(1)]}),
    "in_axes": (ValueError, {"in_axes": (0, 0)}),
    "in_axes ": (ValueError, {"in_axes": 1}),
    "in_axes  ": (ValueError, {"in_axes": None}),
    "state": (TypeError, {"state": 3}),
}


@pytest.mark.parametrize(("name", "error", "given"), [(k, *v) for k, v in BAD.items()], ids=BAD)
def test_errors_name_the_argument(name, error, given):
    options = {"fun": lambda x, *args: jnp.sum(x**2), "x0": X0, "tx": BFGS} | given
    with pytest.raises(error) as caught:
        co.minimize_batch(**options)
    assert name.strip() in str(caught.value)


def test_a_state_of_other_runs():
    x0, args = np.ones(4, np.float32), (1.0,)
    result = co.minimize_batch(slope, x0, SGD, args=args, in_axes=(0, None))
    for x, tx in ((x0[:3], SGD), (x0, co.momentum(0.1))):
        with pytest.raises(ValueError, match="state"):
            co.minimize_batch(slope, x, tx, args=args, in_axes=(0, None), state=result.state)


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.vmap,
        jax.grad,
        lambda solve: jax.jit(lambda x0: solve(np.zeros(2, np.float32))),
    ],
    ids=["jit", "vmap", "grad", "a constant under jit"],
)
def test_refuses_to_be_traced(transform):
    def solve(x):
        return co.minimize_batch(lambda x: x**2, x * jnp.ones(2), SGD).value.sum()

    with pytest.raises(TypeError, match="minimize_batch"):
        transform(solve)(jnp.ones(2) if transform is jax.vmap else 1.0)
