"""`with_line_search`: the promises of each update, for any function and direction.

All functions take four numbers, so that each transformation is compiled once per dtype. It sees
values and gradients only, so that a test may also make these up.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trials
from globalization.conjugate_gradients import scale_by_conjugate_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from trials import anchor, assert_same_bits, update_of, value_and_grad

import cs231n_optax as co
from cs231n_optax import Status
from cs231n_optax.globalization.search import Answer, Search

C1, C2, DELTA, NOISE = 1e-4, 0.7, 0.1, 10  # the defaults of `wolfe`, δ, and ε |f(x₀)| of noise

GD = co.with_line_search(optax.identity())
LBFGS = co.lbfgs(5)
BFGS = co.bfgs()
every_tx = pytest.mark.parametrize("tx", [GD, LBFGS, BFGS], ids=["gd", "lbfgs", "bfgs"])


# Functions of four numbers.


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(p):
    """Beale's function, of (x, y) twice."""
    x, y = p[::2], p[1::2]
    return jnp.sum(
        (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2
    )


def ill_conditioned(x):
    return jnp.sum(jnp.array([1.0, 10.0, 1e2, 1e4], x.dtype) * (x - 1) ** 2) / 2


RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((64, 4)).astype(np.float32)
LABELS = np.sign(FEATURES @ [1, -2, 0.5, 0.3] + RNG.standard_normal(64)).astype(np.float32)


def logistic(w, features=FEATURES, labels=LABELS):
    margins = jnp.asarray(labels, w.dtype) * (jnp.asarray(features, w.dtype) @ w)
    return jnp.mean(jnp.logaddexp(jnp.zeros_like(margins), -margins))


def bowl(x):
    return jnp.sum(jnp.arange(1, 5, dtype=x.dtype) * (x - 1) ** 2)


def log_barrier(x):
    """Minimum 4 at 1; NaN for x < 0, and infinite at 0."""
    return jnp.sum(x - jnp.log(x))


def square_root(x):
    """Minimum -4 at 1; NaN for x < 0, and of infinite slope at 0."""
    return jnp.sum(x - 2 * jnp.sqrt(x))


STARTS = {rosenbrock: [-1.2, 1, -1.2, 1], beale: [1, 1, 0.5, 1], ill_conditioned: [3, -2, 1, 0],
          logistic: [0, 0, 0, 0]}  # fmt: skip


run = functools.partial(trials.run, dtype=np.float32)

# What holds in every run.


def check_run(steps):
    before = None
    eps = np.finfo(steps[0].value.dtype).eps
    for k, step in enumerate(steps, 1):
        trial = step.trial
        assert trial.num_evals == k
        assert np.all(np.isfinite(step.updates))
        if trial.accepted:
            assert np.isfinite(step.value)
            assert np.all(np.isfinite(step.grads))
            norm = np.max(np.abs(step.grads))
            assert_same_bits(anchor(trial), (step.params, step.value, step.grads, norm))
            if before is not None:
                noise = NOISE * eps * abs(steps[0].value) + 2 * eps * abs(before.anchor_value)
                assert step.value <= before.anchor_value + noise
                assert step.value <= steps[0].value + 2 * eps * abs(steps[0].value)
        elif before is not None:
            assert_same_bits(anchor(trial), anchor(before))
        before = trial


def check_wolfe(steps):
    """The Wolfe conditions of each accepted step, with t φ′ = (x - anchor) · g."""
    eps, before = np.finfo(steps[0].value.dtype).eps, None
    for step in steps:
        if step.trial.accepted and before is not None:
            way = step.params - np.asarray(before.anchor_params)
            old, new = way @ before.grad, way @ step.grads
            lost = 100 * eps * (np.abs(step.params) @ (np.abs(step.grads) + np.abs(before.grad)))
            assert old < lost
            assert new >= C2 * old - lost
            noise = NOISE * eps * abs(steps[0].value) + 2 * eps * abs(before.anchor_value)
            exact = step.value <= before.anchor_value + C1 * old + noise
            level = step.value <= before.anchor_value + noise
            assert exact or (level and new <= (2 * DELTA - 1) * old + lost)
        if step.trial.accepted:
            before = step.trial


problems = st.sampled_from(list(STARTS))
seeds = st.integers(0, 2**32 - 1)


@every_tx
class TestEveryRun:
    @settings(max_examples=12, deadline=None)
    @given(fun=problems, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
    def test_in_float32(self, tx, fun, seed, scale):
        start = scale * np.random.default_rng(seed).standard_normal(4)
        check_run(run(tx, fun, start, max_evals=60))

    @settings(max_examples=12, deadline=None)
    @given(fun=problems, seed=seeds, scale=st.sampled_from([0.1, 1.0, 10.0]))
    def test_in_float64(self, tx, fun, seed, scale):
        start = scale * np.random.default_rng(seed).standard_normal(4)
        with jax.enable_x64(True):
            steps = run(tx, fun, start, max_evals=60, dtype=np.float64)
        check_run(steps)
        check_wolfe(steps)

    def test_objective_is_not_evaluated(self, tx):
        """Loops written for Optax's L-BFGS run unchanged, and their function is not called."""

        def never(params):
            raise AssertionError("evaluated")

        x = jnp.array(STARTS[rosenbrock], jnp.float32)
        value, grads = value_and_grad(rosenbrock)(x)
        start = tx.init(x)
        updates, state = update_of(tx, never)(grads, start, x, value, grad=grads, unknown=1)
        expected = update_of(tx)(grads, start, x, value)
        np.testing.assert_allclose(updates, expected[0], rtol=1e-6)
        assert state.trial.num_evals == 1


# Values and gradients that are not finite.


@every_tx
class TestNotFinite:
    @pytest.mark.parametrize("fun", [log_barrier, square_root])
    @pytest.mark.parametrize("start", [0.01, 30.0])
    def test_edge_of_the_domain(self, tx, fun, start):
        steps = run(tx, fun, [start, 1.5, 2.0, start])
        check_run(steps)
        assert not np.all(np.isfinite([step.value for step in steps])) or start < 1
        assert steps[-1].status in (Status.CONVERGED, Status.STALLED)
        np.testing.assert_allclose(steps[-1].trial.anchor_params, np.ones(4), atol=2e-3)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite_gradient_is_rejected(self, tx, bad):
        """Although the value is the lowest so far there."""

        def evaluate(x, k):
            value, grads = value_and_grad(bowl)(x)
            return (-1e6, grads.at[2].set(bad)) if np.any(x < 0.9) else (value, grads)

        steps = run(tx, None, [3.0, 2.0, 1.5, 1.2], evaluate=evaluate)
        check_run(steps)
        assert any(step.value == -1e6 for step in steps)
        np.testing.assert_allclose(steps[-1].trial.anchor_params, np.ones(4), atol=2e-3)

    @pytest.mark.parametrize(("value", "slope"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan)])
    def test_nonfinite_start_fails(self, tx, value, slope):
        def evaluate(x, k):
            return (value, slope * x) if k == 0 else (1.0, x)

        x = jnp.array([3.0, 2.0, 1.0, 0.0])
        state = tx.init(x)
        for k in range(3):
            bad, grads = evaluate(x, k)
            updates, state = update_of(tx)(grads, state, x, jnp.float32(bad))
            np.testing.assert_array_equal(updates, np.zeros(4))
            assert co.status(state) == Status.FAILED
            assert not co.accepted(state)
        np.testing.assert_array_equal(co.accepted_params(state), x)


# Ends.


def invented(values_and_grads):
    """These values and gradients in turn, wherever they are asked for; then always the last."""
    return lambda x, k: values_and_grads[min(k, len(values_and_grads) - 1)]


G = np.array([3.0, -4.0, 0.0, 1.0], np.float32)


@every_tx
class TestEnds:
    def test_zero_gradient_converges(self, tx):
        steps = run(tx, None, np.ones(4), evaluate=invented([(2.0, 0 * G)]))
        assert len(steps) == 1
        assert steps[0].status == Status.CONVERGED
        assert steps[0].trial.accepted
        np.testing.assert_array_equal(steps[0].updates, np.zeros(4))

    def test_final_status_stays(self, tx):
        """Better values, NaN and other parameters change nothing."""
        step = run(tx, None, np.ones(4), evaluate=invented([(2.0, 0 * G)]))[0]
        x, state = jnp.asarray(step.params), step.state
        for value, grads in ((-1.0, G), (np.nan, G), (1.0, np.nan * G), (1.0, 0 * G)):
            updates, after = update_of(tx)(jnp.asarray(grads), state, x, jnp.float32(value))
            np.testing.assert_array_equal(updates, np.zeros(4))
            assert_same_bits(after, state)
        updates, after = update_of(tx)(jnp.asarray(G), state, x + 1, jnp.float32(1.0))
        np.testing.assert_array_equal(updates, -np.ones(4))
        assert_same_bits(after, state)

    def test_failed_search_is_followed_by_steepest_descent(self, tx):
        """All trials are worse than the anchor: 20 along the line, 20 along -g, then it ends."""
        down = run(tx, ill_conditioned, [3.0, -2.0, 1.0, 0.0], max_evals=12)
        last = next(k for k in reversed(range(12)) if down[k].trial.accepted)

        def evaluate(x, k):
            value, grads = value_and_grad(ill_conditioned)(x)
            return (value, grads) if k <= last else (1e9 + k, -1e3 * grads)

        steps = run(tx, None, [3.0, -2.0, 1.0, 0.0], evaluate=evaluate)
        assert steps[-1].status == Status.FAILED
        assert len(steps) == last + 1 + 20 + 20
        final = steps[-1].trial
        assert_same_bits(final.anchor_params, steps[last].params)
        np.testing.assert_allclose(
            steps[-1].params + steps[-1].updates, steps[last].params, rtol=1e-6, atol=1e-6
        )
        for step in steps[last + 21 :]:
            way, g = step.params - steps[last].params, steps[last].grads
            length = np.linalg.norm(way)
            assert length < 1e-5 or -way @ g > 0.999 * length * np.linalg.norm(g)

    def test_constant_values_stall(self, tx):
        """Although the gradient is not zero."""
        steps = run(tx, None, np.ones(4), evaluate=invented([(2.0, G)]))
        assert steps[-1].status == Status.STALLED
        assert len(steps) <= 100
        assert_same_bits(steps[-1].trial.anchor_params, np.ones(4, np.float32))


def test_ascent_direction_is_replaced():
    tx = co.with_line_search(optax.scale(-1.0))
    steps = run(tx, beale, STARTS[beale], max_evals=600)
    check_run(steps)
    np.testing.assert_allclose(steps[-1].trial.anchor_params, [3, 0.5, 3, 0.5], atol=1e-4)


SCALED = co.with_line_search(  # by a number that each update is given
    optax.GradientTransformationExtraArgs(
        lambda params: (), lambda grads, state, params, *, factor, **_: (factor * grads, state)
    )
)


@pytest.mark.parametrize("factor", [1e30, 1e38, np.inf, np.nan, 1e-30, 0.0])
def test_direction_of_any_length(factor):
    """Finite parameters, no farther than √max, and the minimum in the end."""
    steps = run(SCALED, logistic, STARTS[logistic], factor=np.float32(factor))
    check_run(steps)
    farthest = max(np.max(np.abs(step.params)) for step in steps)
    assert farthest <= np.sqrt(np.finfo(np.float32).max) * (1 + 1e-6)
    best = run(LBFGS, logistic, STARTS[logistic])[-1].trial.anchor_params
    np.testing.assert_allclose(steps[-1].trial.anchor_params, best, atol=2e-3)


PATIENT = co.with_line_search(optax.identity(), co.wolfe(max_evals=60))


@pytest.mark.parametrize("tx", [GD, LBFGS, PATIENT], ids=["gd", "lbfgs", "patient"])
def test_unbounded_function_ends_with_finite_parameters(tx):
    steps = run(tx, lambda x: -jnp.sum(x), np.zeros(4))
    assert np.all(np.isfinite([step.params for step in steps]))
    check_run(steps)
    assert steps[-1].status in (Status.STALLED, Status.FAILED)


@pytest.mark.parametrize("tx", [LBFGS, BFGS], ids=["lbfgs", "bfgs"])
def test_complex_parameters(tx):
    """The gradient that descends is the conjugate of JAX's."""
    target = np.array([1 + 2j, 3 - 1j, -1j, 2], np.complex64)

    def fun(z):
        return jnp.sum(jnp.array([1.0, 5.0, 20.0, 50.0]) * jnp.abs(z - target) ** 2)

    def evaluate(z, k):
        value, grads = value_and_grad(fun)(z)
        return value, jnp.conj(grads)

    steps = run(tx, None, np.zeros(4), dtype=np.complex64, evaluate=evaluate)
    assert steps[-1].status in (Status.CONVERGED, Status.STALLED)
    np.testing.assert_allclose(steps[-1].trial.anchor_params, target, atol=1e-5)


def test_parameters_of_two_dtypes():
    """Each leaf moves in its own, and is finite to the end."""
    with jax.enable_x64(True):
        params = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros(2, jnp.float64)}
        state = GD.init(params)
        update = update_of(GD)
        for _ in range(40):
            grads = jax.tree.map(lambda x: x - 1, params)
            value = 0.5 * sum(jnp.sum(g.astype(jnp.float64) ** 2) for g in jax.tree.leaves(grads))
            updates, state = update(grads, state, params, value)
            params = optax.apply_updates(params, updates)
            for x in jax.tree.leaves(params):
                assert np.all(np.isfinite(x))
        assert params["a"].dtype == jnp.float32
        np.testing.assert_allclose(params["a"], np.ones(2), rtol=1e-5)
        np.testing.assert_allclose(params["b"], np.ones(2), rtol=1e-5)


MINIMA = {rosenbrock: [1, 1, 1, 1], beale: [3, 0.5, 3, 0.5], ill_conditioned: [1, 1, 1, 1]}


@pytest.mark.parametrize("tx", [LBFGS, BFGS], ids=["lbfgs", "bfgs"])
@pytest.mark.parametrize("fun", STARTS, ids=lambda fun: fun.__name__)
def test_float32_without_a_tolerance(tx, fun):
    """It still ends at the minimum, within 200 evaluations."""
    steps = run(tx, fun, STARTS[fun], max_evals=200)
    check_run(steps)
    assert steps[-1].status in (Status.CONVERGED, Status.STALLED)
    if fun in MINIMA:
        np.testing.assert_allclose(steps[-1].trial.anchor_params, MINIMA[fun], rtol=1e-5)
    scale = np.linalg.norm(steps[0].grads)
    assert np.linalg.norm(steps[-1].trial.grad) <= 1e-5 * scale


@pytest.mark.parametrize("tx", [GD, LBFGS, BFGS], ids=["gd", "lbfgs", "bfgs"])
@pytest.mark.parametrize("size", [1, 8])
def test_batches_that_change_within_a_search(tx, size):
    """The batch should stay the same until accepted; where it does not, all stays finite."""
    rng = np.random.default_rng(1)

    def evaluate(w, k):
        batch = rng.integers(0, 64, size)
        return batch_value_and_grad(w, FEATURES[batch], LABELS[batch])

    steps = run(tx, None, np.zeros(4), evaluate=evaluate, max_evals=150)
    assert all(np.all(np.isfinite(step.params)) for step in steps)
    assert all(np.all(np.isfinite(step.trial.anchor_params)) for step in steps)
    assert all(step.trial.num_evals == k for k, step in enumerate(steps, 1))


batch_value_and_grad = jax.jit(jax.value_and_grad(logistic))


# Chains and wrappers.


class TestChained:
    @pytest.mark.parametrize(
        "after",
        [optax.scale(0.5), optax.add_decayed_weights(0.1), optax.clip(1e-3), optax.ema(0.9)],
        ids=["scale", "add_decayed_weights", "clip", "ema"],
    )
    def test_transformation_that_changes_the_updates_is_detected(self, after):
        steps = run(optax.chain(LBFGS, after), rosenbrock, STARTS[rosenbrock], max_evals=50)
        check_run(steps)  # no point was accepted on the evidence of another
        assert steps[-1].status == Status.MISPLACED
        updates, _ = LBFGS.update(
            jnp.asarray(steps[-1].grads), steps[-1].state[0], jnp.asarray(steps[-1].params),
            value=steps[-1].value,
        )  # fmt: skip
        back = steps[-1].params + updates
        np.testing.assert_allclose(back, steps[-1].trial.anchor_params, rtol=1e-6)

    def test_transformation_that_changes_nothing_is_harmless(self):
        after = optax.chain(optax.clip(1e9), optax.zero_nans(), optax.scale(1.0))
        steps = run(optax.chain(LBFGS, after), beale, STARTS[beale])
        assert steps[-1].status in (Status.CONVERGED, Status.STALLED)
        np.testing.assert_allclose(steps[-1].trial.anchor_params, MINIMA[beale], rtol=1e-5)

    def test_weight_decay_before_the_search(self):
        """The minimum is that of the decayed loss, if ``value`` is its value, too."""

        def decayed(x):
            return ill_conditioned(x) + 0.05 * jnp.sum(x**2)

        def evaluate(x, k):
            return decayed(x), value_and_grad(ill_conditioned)(x)[1]

        tx = optax.chain(optax.add_decayed_weights(0.1), LBFGS)
        steps = run(tx, None, STARTS[ill_conditioned], evaluate=evaluate)
        curvatures = np.array([1.0, 10.0, 1e2, 1e4])
        expected = curvatures / (curvatures + 0.1)
        np.testing.assert_allclose(steps[-1].trial.anchor_params, expected, rtol=1e-5)


class TestAccessors:
    @pytest.mark.parametrize("where", ["chain", "inject_hyperparams", "masked"])
    def test_record_is_found_in_a_wrapped_state(self, where):
        tx = {
            "chain": optax.chain(optax.clip(1e6), LBFGS),
            "inject_hyperparams": optax.inject_hyperparams(with_traced_c2)(c2=0.5),
            "masked": optax.masked(LBFGS, lambda tree: jax.tree.map(lambda x: x.size > 1, tree)),
        }[where]
        params = {"w": jnp.array(STARTS[rosenbrock], jnp.float32), "fixed": jnp.zeros(())}
        if where != "masked":
            del params["fixed"]
        update = jax.jit(lambda g, s, p, v: tx.update(g, s, p, value=v))
        gradients = jax.value_and_grad(lambda params: rosenbrock(params["w"]))

        state = tx.init(params)
        assert not co.accepted(state)
        assert co.status(state) == Status.RUNNING
        value, grads = gradients(params)
        updates, state = update(grads, state, params, value)
        assert co.accepted(state)
        np.testing.assert_array_equal(co.accepted_params(state)["w"], params["w"])
        trial = optax.apply_updates(params, updates)
        _, state = update(grads, state, trial, jnp.float32(np.nan))
        assert not co.accepted(state)
        np.testing.assert_array_equal(co.accepted_params(state)["w"], params["w"])

    def test_state_without_a_record(self):
        state = co.adam().init(jnp.ones(2))
        assert co.accepted(state)
        for accessor in (co.accepted_params, co.status):
            with pytest.raises(ValueError, match="no trial record"):
                accessor(state)

    def test_state_with_two_records(self):
        state = optax.chain(GD, GD).init(jnp.ones(2))
        for accessor in (co.accepted_params, co.accepted, co.status):
            with pytest.raises(ValueError, match="2 trial records, expected at most 1"):
                accessor(state)


def with_traced_c2(c2):
    return co.lbfgs(5, search=co.wolfe(c2=c2))


class FixedState(NamedTuple):
    step: jax.Array
    answer: jax.Array
    condition: jax.Array


class TestCustomSearch:
    def test_fixed_step(self):
        """A search of two functions that accepts every finite value."""

        def init(value, slope, step, noise=0.0):
            none = jnp.zeros((), jnp.int32)
            return FixedState(jnp.full_like(step, 0.001), none, none)

        def step(state, value, slope):
            answer = jnp.where(jnp.isfinite(value), Answer.ACCEPT, Answer.FAIL)
            return state._replace(answer=answer.astype(jnp.int32))

        tx = co.with_line_search(optax.identity(), Search(init, step))
        steps = run(tx, beale, [2.5, 0.4, 3.5, 0.6], max_evals=40)
        x = np.array([2.5, 0.4, 3.5, 0.6])
        for k, taken in enumerate(steps):
            np.testing.assert_allclose(taken.params, x, rtol=1e-5)
            assert taken.trial.accepted
            g = np.asarray(value_and_grad(beale)(jnp.asarray(x, jnp.float32))[1])
            x = x - 0.001 * (g / np.max(np.abs(g)) if k == 0 else g)

    def test_traced_c2(self):
        """One compiled program for any c₂; a smaller c₂ leaves flatter slopes."""

        @jax.jit
        @jax.vmap
        def first_step(c2):
            tx = co.with_line_search(optax.identity(), co.wolfe(c2=c2, strong=True))
            x = jnp.array(STARTS[rosenbrock], jnp.float32)
            state = tx.init(x)
            gradients = jax.value_and_grad(rosenbrock)

            def body(carry):
                x, state, _ = carry
                value, grads = gradients(x)
                updates, state = tx.update(grads, state, x, value=value)
                return (
                    x + updates,
                    state,
                    co.accepted(state) & (co.accepted_params(state) != x0).any(),
                )

            x0 = x
            _, state, _ = jax.lax.while_loop(lambda c: ~c[2], body, (x, state, jnp.array(False)))
            way = co.accepted_params(state) - x0
            return way @ state.trial.grad / (way @ gradients(x0)[1])

        c2s = jnp.array([0.5, 0.01, 1e-3])
        assert np.all(np.abs(first_step(c2s)) <= c2s * (1 + 1e-4))


@pytest.mark.parametrize("fun", [rosenbrock, beale], ids=["rosenbrock", "beale"])
def test_conjugate_gradients(fun):
    search = co.wolfe(c2=0.1, strong=True)
    tx = co.with_line_search(scale_by_conjugate_gradients(), search)
    steps = run(tx, fun, STARTS[fun], max_evals=400)
    check_run(steps)
    np.testing.assert_allclose(steps[-1].trial.anchor_params, MINIMA[fun], rtol=1e-3)


X = jnp.ones(3)


@pytest.mark.parametrize(
    ("grads", "params", "named"),
    [
        (X, [X], "parameters"),
        (X, X[None], "parameters"),
        (X.astype(jnp.bfloat16), X, "gradients"),
    ],
    ids=["another tree", "another shape", "another dtype"],
)
def test_arguments_unlike_those_of_init_are_named(grads, params, named):
    with pytest.raises(ValueError, match=named):
        GD.update(grads, GD.init(X), params, value=jnp.float32(1.0))


STATES = [GD, LBFGS, BFGS, co.with_line_search(optax.identity(), co.backtracking())]


@pytest.mark.parametrize("tx", STATES, ids=["gd", "lbfgs", "bfgs", "backtracking"])
def test_optax_evaluates_every_point_anew(tx):
    """`optax.value_and_grad_from_state` would take a finite ``value`` in the state for its own."""
    evaluated = []

    def fun(x):
        jax.debug.callback(lambda x: evaluated.append(np.asarray(x)), x)
        return rosenbrock(x)

    @jax.jit
    def step(params, state):
        value, grads = optax.value_and_grad_from_state(fun)(params, state=state)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = jnp.array(STARTS[rosenbrock], jnp.float32)
    state, points = tx.init(params), []
    for _ in range(12):
        points.append(np.asarray(params))
        params, state = step(params, state)
    jax.effects_barrier()
    np.testing.assert_array_equal(evaluated, points)


# Donation and batches.


@every_tx
def test_donated_buffers(tx):
    """No two fields of a state share a buffer."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = jnp.array(STARTS[rosenbrock], jnp.float32)
    state = tx.init(params)
    for _ in range(30):
        old = params
        params, state = step(params, state)
        assert old.is_deleted()
    expected = run(tx, rosenbrock, STARTS[rosenbrock], max_evals=30)[-1].trial
    np.testing.assert_allclose(state.trial.anchor_value, expected.anchor_value, rtol=1e-2)
    assert state.trial.num_evals == 30


LANES = 8


@every_tx
def test_batch_agrees_with_single_runs(tx):
    """A lane that has ended stays as it is."""
    starts = np.random.default_rng(3).uniform(-1, 2, (LANES, 4)).astype(np.float32)
    starts[0] = 1.0  # at the minimum from the start
    gradients = jax.jit(jax.vmap(jax.value_and_grad(ill_conditioned)))
    update = jax.jit(jax.vmap(lambda g, s, x, v: tx.update(g, s, x, value=v)))
    rounds = 40 if tx is GD else 60
    params, state = jnp.asarray(starts), jax.vmap(tx.init)(jnp.asarray(starts))
    for _ in range(rounds):
        values, grads = gradients(params)
        updates, after = update(grads, state, params, values)
        done = np.flatnonzero(state.trial.status != Status.RUNNING)
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(np.asarray(new)[done], np.asarray(old)[done])
        params, state = optax.apply_updates(params, updates), after
    np.testing.assert_array_equal(state.trial.num_evals[0], 1)
    for lane, start in enumerate(starts):
        alone = run(tx, ill_conditioned, start, max_evals=rounds)[-1].trial
        here = jax.tree.map(lambda x, lane=lane: x[lane], state.trial)
        scale = ill_conditioned(start)
        if tx is GD:
            np.testing.assert_allclose(here.anchor_value, alone.anchor_value, rtol=0.05)
        else:
            assert here.status == alone.status
            np.testing.assert_allclose(here.anchor_value, alone.anchor_value, atol=1e-9 * scale)
            np.testing.assert_allclose(here.anchor_params, alone.anchor_params, rtol=1e-4)
