"""`wolfe` and `backtracking` on functions of one number, by the definitions in Nocedal and Wright.

φ and φ′ are NumPy functions, rounded to the dtype of the search. The accepted step is checked by
the inequalities of chapter 3, with the rounded numbers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co
from cs231n_optax.globalization.search import Answer, Condition, Search

DTYPES = [np.float32, np.float64]
DELTA = 0.1  # of the approximate condition φ′(t) <= (2 δ - 1) φ′(0)
MAX_EVALS = {"wolfe": 20, "backtracking": 30}

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
many = settings(max_examples=50, deadline=None)


pytestmark = pytest.mark.usefixtures("x64")


# A search is compiled once per kind and dtype, with c₁ and c₂ traced.


class Kind(NamedTuple):
    name: str
    strong: bool = False

    def make(self, c1, c2):
        if self.name == "wolfe":
            return co.wolfe(c1=c1, c2=c2, strong=self.strong)
        return co.backtracking(c1=c1, decrease=c2)


WEAK, STRONG, ARMIJO = Kind("wolfe"), Kind("wolfe", strong=True), Kind("backtracking")
every_kind = pytest.mark.parametrize("kind", [WEAK, STRONG, ARMIJO], ids=["weak", "strong", "back"])


@functools.partial(jax.jit, static_argnums=0)
def start(kind, c1, c2, value, slope, step, noise):
    return kind.make(c1, c2).init(value, slope, step, noise)


@functools.partial(jax.jit, static_argnums=0)
def advance(kind, c1, c2, state, value, slope):
    return kind.make(c1, c2).step(state, value, slope)


def flushed(x):
    """Zero for a subnormal number, as XLA on a CPU has it."""
    return x if abs(x) >= np.finfo(x.dtype).tiny or np.isnan(x) else 0 * x


class Point(NamedTuple):
    step: float
    value: float
    slope: float


class Run(NamedTuple):
    trials: list
    state: object
    answers: list


def drive(kind, phi, first_step, dtype, c1=1e-4, c2=0.7, noise=0.0):
    """Run a search to its end; φ gives (value, slope) in float64, which are rounded."""

    def evaluate(t):
        with np.errstate(all="ignore"):
            return [flushed(dtype(x)) for x in phi(np.float64(t))]

    value, slope = evaluate(0.0)
    state = start(kind, c1, c2, value, slope, dtype(first_step), dtype(noise))
    dtypes = jax.tree.map(lambda x: x.dtype, state)
    trials, answers = [], []
    while True:
        t = np.asarray(state.step)[()]
        assert np.isfinite(t), trials
        assert t > 0, trials
        value, slope = evaluate(t)
        trials.append(Point(t, value, slope))
        state = advance(kind, c1, c2, state, value, slope)
        assert jax.tree.map(lambda x: x.dtype, state) == dtypes
        assert state.num_evals == len(trials)
        answers.append(Answer(int(state.answer)))
        if state.answer != Answer.TRY:
            break
        assert state.condition == Condition.NONE
        assert len(trials) < MAX_EVALS[kind.name]
    return Run([Point(0.0, *(np.float64(x) for x in evaluate(0.0))), *trials], state, answers)


def decreases(origin, trial, c1):
    """Armijo's condition, with the rounding of its right-hand side."""
    eps = np.finfo(trial.value.dtype).eps
    t, value = np.float64(trial.step), np.float64(trial.value)
    right = origin.value + c1 * t * origin.slope
    return value <= right + 2 * eps * (abs(origin.value) + abs(c1 * t * origin.slope))


def curved(origin, trial, c2, strong):
    slope, eps = np.float64(trial.slope), np.finfo(trial.slope.dtype).eps
    steepest = c2 * origin.slope * (1 + 2 * eps)
    return slope >= steepest and (not strong or slope <= -steepest)


def check_run(kind, run, c1, c2, noise=0.0):
    """The accepted step meets the reported condition; a failure reports none."""
    origin, last = run.trials[0], run.trials[-1]
    eps = np.finfo(last.value.dtype).eps
    allowance = max(2 * eps * abs(origin.value), noise)
    level = last.value <= last.value.dtype.type(origin.value + allowance)
    condition = Condition(int(run.state.condition))
    if run.answers[-1] == Answer.FAIL:
        assert condition == Condition.NONE
        return
    assert run.state.step == last.step
    assert np.isfinite(last.value)
    assert np.isfinite(last.slope)
    if kind == ARMIJO:
        if condition == Condition.ARMIJO:
            assert decreases(origin, last, c1)
        else:
            assert condition == Condition.APPROXIMATE_WOLFE
            assert level
            assert origin.slope <= last.slope <= 0
    elif condition == Condition.ARMIJO:  # the last that it may try
        assert decreases(origin, last, c1)
        if run.answers[-1] == Answer.UNBOUNDED:
            assert min(trial.value for trial in run.trials) == -np.inf
        else:
            assert run.answers[-1] == Answer.ACCEPT
            assert len(run.answers) == MAX_EVALS[kind.name]
    else:
        assert curved(origin, last, c2, kind.strong)
        if condition == Condition.WOLFE:
            assert decreases(origin, last, c1)
        else:
            assert condition == Condition.APPROXIMATE_WOLFE
            assert level
            assert last.slope <= (2 * DELTA - 1) * origin.slope * (1 - 2 * eps)


# Families of φ with parameters drawn by hypothesis; φ′(0) < 0 in all of them.

coefficients = st.floats(0.01, 10.0)
signed = st.floats(-10.0, 10.0)
first_steps = st.floats(-3.0, 3.0).map(lambda x: 10.0**x)
c1s = st.sampled_from([1e-4, 1e-3, 0.1, 0.3])
c2s = st.floats(0.4, 0.95)


def quartic(a, b, c, d):
    """-a t + b t² + c t³ + d t⁴, bounded below, concave here and there."""
    return lambda t: (
        t * (-a + t * (b + t * (c + t * d))),
        -a + t * (2 * b + t * (3 * c + 4 * d * t)),
    )


quartics = st.builds(quartic, coefficients, signed, signed, coefficients)


def exponential(k, a):
    """Exp(k t) - (k + a) t: steep, and inf for long steps."""
    return lambda t: (np.exp(k * t) - (k + a) * t, k * np.exp(k * t) - (k + a))


exponentials = st.builds(exponential, st.floats(0.1, 100.0), coefficients)


def plateau(a, k):
    """-a (1 - exp(-k t)): ever flatter, without a minimum."""
    return lambda t: (a * np.expm1(-k * t), -a * k * np.exp(-k * t))


plateaus = st.builds(plateau, coefficients, coefficients)


def wave(a, k, b):
    """-a sin(k t) + b t²: concave first, then many minima."""
    return lambda t: (-a * np.sin(k * t) + b * t * t, -a * k * np.cos(k * t) + 2 * b * t)


waves = st.builds(wave, coefficients, coefficients, st.floats(1e-3, 1.0))
smooth = st.one_of(quartics, exponentials, plateaus, waves)


def walled(phi, wall, value, slope):
    """φ up to the wall; beyond it a value and a slope, not both finite."""
    return lambda t: phi(t) if t < wall else (value, slope)


beyond = st.sampled_from(
    [(np.nan, np.nan), (np.inf, np.inf), (-np.inf, -1.0), (-1e30, np.nan), (np.nan, -1.0)]
)
walls = st.builds(
    lambda phi, wall, ends: walled(phi, wall, *ends),
    smooth,
    st.floats(-3.0, 1.0).map(lambda x: 10.0**x),
    beyond,
)


def lifted(phi, height):
    """φ plus a constant, to which most of its digits are lost."""
    return lambda t: (phi(t)[0] + height, phi(t)[1])


at_rounding = st.builds(
    lambda phi, height: lifted(phi, height),
    st.one_of(quartics, waves),
    st.floats(2.0, 9.0).flatmap(lambda x: st.sampled_from([10.0**x, -(10.0**x)])),
)


@every_dtype
@every_kind
class TestAnyFunction:
    @many
    @given(phi=st.one_of(smooth, walls, at_rounding), t=first_steps, c1=c1s, c2=c2s)
    def test_accepted_step_meets_its_condition(self, kind, dtype, phi, t, c1, c2):
        run = drive(kind, phi, t, dtype, c1, c2)
        check_run(kind, run, c1, c2)

    @many
    @given(
        slope=st.floats(1e-6, 1e6),
        numbers=st.lists(
            st.tuples(
                st.one_of(st.floats(width=32), st.floats(-2.0, 2.0)),
                st.one_of(st.floats(width=32), st.floats(-2.0, 2.0)),
            ),
            min_size=1,
            max_size=30,
        ),
        t=first_steps,
        noise=st.sampled_from([0.0, 1.0]),
    )
    def test_values_and_slopes_of_no_function(self, kind, dtype, slope, numbers, t, noise):
        """The search still ends in its budget, and what it accepts meets its condition."""
        answers = iter(numbers * 30)
        phi = lambda t: (0.5, -slope) if t == 0 else next(answers)  # noqa: E731
        check_run(kind, drive(kind, phi, t, dtype, noise=noise), 1e-4, 0.7, noise)


@every_dtype
@pytest.mark.parametrize("kind", [WEAK, STRONG], ids=["weak", "strong"])
class TestWolfe:
    @many
    @given(phi=smooth, t=first_steps, c2=c2s)
    def test_succeeds_on_smooth_functions(self, kind, dtype, phi, t, c2):
        """A step that meets the conditions exists (lemma 3.1), and in float64 it is found."""
        if dtype == np.float64:
            run = drive(kind, phi, t, dtype, c2=c2)
            assert run.answers[-1] == Answer.ACCEPT

    @many
    @given(phi=walls, t=first_steps)
    def test_shrinks_from_nonfinite_values(self, kind, dtype, phi, t):
        run = drive(kind, phi, t, dtype)
        steps = np.array([x.step for x in run.trials])
        finite = np.array([np.isfinite(x.value) and np.isfinite(x.slope) for x in run.trials])
        for i in np.flatnonzero(~finite):
            assert np.all(steps[i + 1 :] < steps[i])

    @many
    @given(phi=plateaus, t=st.floats(-6.0, -2.0).map(lambda x: 10.0**x), c2=st.floats(0.1, 0.5))
    def test_grows_while_too_short(self, kind, dtype, phi, t, c2):
        """On a plateau every step is too short until the last one.

        It grows at most tenfold three times, then by another factor of 100 each time.
        """
        run = drive(kind, phi, t, dtype, c2=c2)
        steps = np.array([x.step for x in run.trials[1:]])
        growth = steps[1:] / steps[:-1]
        assert np.all(growth >= 1.1 * (1 - 1e-6))
        limits = np.array([10, 10, 10, *10.0 ** np.arange(2, 30, 2)])[: len(growth)]
        assert np.all(growth <= limits * (1 + 1e-5))
        assert run.answers[-1] == Answer.ACCEPT

    @many
    @given(
        curvature=coefficients,
        minimum=coefficients,
        ratio=st.one_of(st.floats(0.2, 0.6), st.floats(1.7, 1.99), st.floats(2.01, 9.0)),
    )
    def test_parabola_takes_one_interpolation(self, kind, dtype, curvature, minimum, ratio):
        """φ(t) = a (t - t*)² / 2: after one step too short or too long, t* to rounding."""
        phi = lambda t: (curvature * ((t - minimum) ** 2) / 2, curvature * (t - minimum))  # noqa: E731
        run = drive(kind, phi, ratio * minimum, dtype, c2=0.1)
        assert len(run.trials) == (3 if rejected_on_a_parabola(ratio, kind.strong) else 2)
        if len(run.trials) == 3:
            np.testing.assert_allclose(run.state.step, minimum, rtol=1000 * np.finfo(dtype).eps)

    def test_strong_condition_rejects_steep_ascent(self, kind, dtype):
        """A minimum at 1 and a step of 1.9, lower than the start, but steep uphill."""
        phi = lambda t: ((t - 1) ** 2, 2 * (t - 1))  # noqa: E731
        run = drive(kind, phi, 1.9, dtype, c2=0.5)
        assert len(run.trials) == (3 if kind.strong else 2)


def rejected_on_a_parabola(ratio, strong):
    """Whether c₁ = 1e-4, c₂ = 0.1 reject t = ratio · t* on a parabola (worked out by hand).

    φ(t) - φ(0) = (ratio² - 2 ratio) h and t φ′(0) = -2 ratio h with h = a t*² / 2, so Armijo
    wants ratio <= 2 (1 - c₁); φ′(t) / φ′(0) = 1 - ratio.
    """
    too_steep = 1 - ratio > 0.1 or (strong and ratio - 1 > 0.1)
    return ratio > 2 * (1 - 1e-4) or too_steep


@every_dtype
class TestRounding:
    def test_slopes_decide_where_values_are_rounded_away(self, dtype):
        """Near the minimum of 1 + h (t - 1)² all values are 1; its slopes still have digits."""
        height = 0.01 * np.finfo(dtype).eps
        phi = lambda t: (1 + height * (t - 1) ** 2, 2 * height * (t - 1))  # noqa: E731
        for kind in (WEAK, STRONG):
            for first in (0.5, 1.0, 1.7):
                run = drive(kind, phi, first, dtype, c1=0.3)
                assert run.answers[-1] == Answer.ACCEPT
                assert 0.3 <= run.state.step <= 1.7

    def test_known_noise_is_allowed_for(self, dtype):
        """A rise by 1e-3 is accepted as level only if the noise is larger."""
        phi = lambda t: (1.001 if t else 1.0, 0.5 * (t - 1))  # noqa: E731
        run = drive(WEAK, phi, 1.0, dtype, noise=2e-3)
        assert run.answers == [Answer.ACCEPT]
        assert run.state.condition == Condition.APPROXIMATE_WOLFE
        run = drive(WEAK, phi, 1.0, dtype, noise=5e-4)
        assert run.answers[0] == Answer.TRY

    def test_constant_function_fails_at_once(self, dtype):
        """The step is below rounding: the trial is the start, whatever the slope says."""
        run = drive(WEAK, lambda t: (1.0, -1.0), 1.0, dtype)
        assert run.answers == [Answer.FAIL]

    def test_jump_is_bracketed_to_rounding_and_then_fails(self, dtype):
        """Down with slope -1 as far as 1, and a cliff upwards: no step meets the conditions."""
        phi = lambda t: (-t, -1.0) if t < 1 else (5.0, -1.0)  # noqa: E731
        step = jax.jit(co.wolfe(max_evals=200).step)
        state = co.wolfe().init(*(dtype(x) for x in phi(0.0)), dtype(0.3))
        while state.answer == Answer.TRY:
            state = step(state, *(dtype(x) for x in phi(float(state.step))))
        assert state.answer == Answer.FAIL
        assert state.num_evals < 100
        np.testing.assert_allclose(state.step, 1.0, rtol=10 * np.finfo(dtype).eps)


@every_dtype
class TestBacktracking:
    @many
    @given(
        phi=st.one_of(smooth, walls),
        t=first_steps,
        c1=c1s,
        decrease=st.floats(0.05, 0.95),
    )
    def test_first_sufficient_step_of_a_geometric_sequence(self, dtype, phi, t, c1, decrease):
        run = drive(ARMIJO, phi, t, dtype, c1, decrease)
        steps = np.array([x.step for x in run.trials[1:]], np.float64)
        k = np.arange(len(steps))
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(steps, t * decrease**k, rtol=100 * eps)
        origin = run.trials[0]
        for trial in run.trials[1:-1]:
            right = origin.value + c1 * trial.step * origin.slope
            slack = 2 * eps * (abs(origin.value) + abs(right))
            finite = np.isfinite(trial.value) and np.isfinite(trial.slope)
            assert not (finite and trial.value <= right - slack)


# Traced constants, and what is asked of the arguments.


def test_traced_constants():
    """Under jit and vmap c₂ = 0.9 accepts the flat step that c₂ = 0.1 finds too short."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, 0))
    def first_answer(c1, c2, slope):
        search = co.wolfe(c1=c1, c2=c2)
        state = search.init(jnp.float32(0.5), jnp.float32(-1.0), jnp.float32(0.5))
        return search.step(state, jnp.float32(0.125), slope).answer

    # Downhill at half the slope; and uphill, with 3/4 of the decrease that the slope promised.
    for c1, c2, slope in (([1e-4] * 2, [0.1, 0.9], -0.5), ([0.8, 0.7], [0.9] * 2, 0.9)):
        answers = first_answer(jnp.array(c1), jnp.array(c2), jnp.full(2, slope, jnp.float32))
        np.testing.assert_array_equal(answers, [Answer.TRY, Answer.ACCEPT])

    def backtracked(decrease):
        search = co.backtracking(decrease=decrease)
        state = search.init(jnp.float32(0.0), jnp.float32(-1.0), jnp.float32(1.0))
        return search.step(state, jnp.float32(1.0), jnp.float32(1.0)).step

    np.testing.assert_allclose(
        jax.jit(jax.vmap(backtracked))(jnp.array([0.1, 0.9])), [0.1, 0.9], rtol=1e-6
    )


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_one_dtype_throughout(promotion):
    """A state's dtypes do not depend on x64, nor on the type of the constants."""
    for search in (co.wolfe(), co.wolfe(c1=jnp.float32(0.1), strong=True), co.backtracking()):
        for x64, dtype in ((False, np.float32), (True, np.float32), (True, np.float64)):
            with jax.enable_x64(x64), jax.numpy_dtype_promotion(promotion):
                one = jax.ShapeDtypeStruct((), dtype)
                state = jax.eval_shape(search.init, one, one, one)
                after = jax.eval_shape(search.step, state, one, one)
            integers = {"answer", "condition", "num_evals", "poor_shrinks"}
            for name, field in state._asdict().items():
                for x in jax.tree.leaves(field):
                    assert x.dtype == (np.int32 if name in integers else dtype)
                    assert x.shape == ()
            assert jax.tree.map(lambda x: x.dtype, after) == jax.tree.map(lambda x: x.dtype, state)


@pytest.mark.parametrize("make", [co.wolfe, co.backtracking])
def test_search_is_no_schedule_to_optax(make):
    search = make()
    assert isinstance(search, Search)
    assert isinstance(search, tuple)
    assert search._fields == ("init", "step")
    assert not callable(search)
    tx = optax.inject_hyperparams(lambda rate, search: optax.sgd(rate), static_args=("search",))
    tx(rate=0.1, search=search).init(jnp.zeros(2))


@pytest.mark.parametrize(
    ("make", "arguments", "error"),
    [
        (co.wolfe, {"c1": jnp.zeros(2)}, ValueError),
        (co.wolfe, {"strong": 1}, TypeError),
        (co.backtracking, {"c1": 1.0}, ValueError),
        (co.backtracking, {"decrease": 1.0}, ValueError),
    ],
)
def test_bad_argument_is_named(make, arguments, error):
    with pytest.raises(error, match=next(iter(arguments))):
        make(**arguments)
