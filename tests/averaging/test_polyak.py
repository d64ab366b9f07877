"""`polyak_average` against the lecture's loop, closed forms and Optax, and where it may stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trials
from trials import assert_same_state

import cs231n_optax as co

VARIANTS = {
    "lecture": {},
    "corrected": {"bias_correction": True},
    "uniform": {"uniform": True},
}
every_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
NUM_STEPS = 60
X0 = {"w": np.array([[2.0, -1.0], [0.5, 3.0]]), "b": np.array(0.3)}


def run(tx, x0, stream, jit=True):
    """Points x₁ … x_t that a loop visits, and its last state."""

    def step(x, state, g):
        updates, state = tx.update(g, state, x)
        return optax.apply_updates(x, updates), state

    step = jax.jit(step) if jit else step
    x, state, points = x0, tx.init(x0), []
    for g in stream:
        x, state = step(x, state, g)
        points.append(x)
    return points, state


def gradients(like, num=NUM_STEPS, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)

    def leaf(x):
        g = rng.standard_normal(x.shape)
        g = g + 1j * rng.standard_normal(x.shape) if jnp.iscomplexobj(x) else g
        return jnp.asarray(scale * g, x.dtype)

    return [jax.tree.map(leaf, like) for _ in range(num)]


def assert_close(one, other, **tolerance):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def after_sgd(*args, rate=0.1, **options):
    return optax.chain(co.sgd(rate), co.polyak_average(*args, **options))


class TestRule:
    def test_is_the_lectures_loop(self):
        learning_rate = 0.1
        with jax.enable_x64(True):
            x0 = jax.tree.map(jnp.asarray, X0)
            stream = gradients(x0)
            points, state = run(after_sgd(), x0, stream)
            x, x_test = X0, X0
            for dx in stream:
                x = {k: x[k] - learning_rate * np.asarray(dx[k]) for k in x}
                x_test = {k: 0.995 * x_test[k] + 0.005 * x[k] for k in x}
            assert_close(co.averaged_params(state), x_test, rtol=1e-12)
            assert_close(points[-1], x, rtol=1e-12)

    @pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.9999])
    def test_bias_correction_is_the_weighted_mean_of_the_points(self, decay):
        with jax.enable_x64(True):
            x0 = jax.tree.map(jnp.asarray, X0)
            points, state = run(after_sgd(decay, bias_correction=True), x0, gradients(x0))
            weights = (1 - decay) * decay ** np.arange(NUM_STEPS - 1.0, -1, -1)
            weights /= weights.sum()
            stacked = jax.tree.map(lambda *xs: np.stack(xs), *points)
            mean = jax.tree.map(lambda xs: np.tensordot(weights, xs, 1), stacked)
            assert_close(co.averaged_params(state), mean, rtol=1e-11)

    def test_bias_correction_is_optax_emas(self):
        x0 = jax.tree.map(functools.partial(jnp.asarray, dtype=jnp.float32), X0)
        ema = optax.ema(0.97, debias=True)
        points, state = run(after_sgd(0.97, bias_correction=True), x0, gradients(x0))
        ema_state = ema.init(x0)
        for x in points:
            mean, ema_state = ema.update(x, ema_state)
        assert_close(co.averaged_params(state), mean, rtol=1e-5, atol=1e-5)

    def test_bias_correction_keeps_its_digits_in_float32(self):
        """The second point weighs 1 / (1 + β); of 1 - β² at β = 0.9999 four digits are lost."""
        tx = co.polyak_average(0.9999, bias_correction=True)
        points, state = run(tx, jnp.zeros(()), [jnp.float32(-1.0), jnp.float32(2.0)])
        assert [float(x) for x in points] == [-1.0, 1.0]
        weight = 1 / (1 + 0.9999)
        np.testing.assert_allclose(co.averaged_params(state), weight - (1 - weight), atol=2e-7)

    def test_uniform_is_the_mean(self):
        with jax.enable_x64(True):
            x0 = jax.tree.map(jnp.asarray, X0)
            points, state = run(after_sgd(uniform=True), x0, gradients(x0))
            mean = jax.tree.map(lambda *xs: np.mean(xs, axis=0), *points)
            assert_close(co.averaged_params(state), mean, rtol=1e-12)

    @pytest.mark.parametrize(
        "options", [{"uniform": True}, {"decay": 0.9, "bias_correction": True}, {"decay": 0.0}]
    )
    def test_the_first_point_is_its_own_mean_whatever_the_start(self, options):
        tx = co.polyak_average(**options)
        x0 = jnp.float32(1e8)
        _, state = tx.update(jnp.float32(-1e8), tx.init(x0), x0)
        assert co.averaged_params(state) == 0
        _, state = jax.jit(tx.update)(jnp.float32(-1e8), tx.init(x0), x0)
        assert co.averaged_params(state) == 0

    @every_variant
    def test_before_the_first_update_it_is_a_copy_of_the_start(self, options):
        tx = co.polyak_average(**options)
        params = jnp.array([1.0, 2.0])
        state = tx.init(params)
        assert state.average.unsafe_buffer_pointer() != params.unsafe_buffer_pointer()
        np.testing.assert_array_equal(co.averaged_params(state), params)

    @every_variant
    def test_a_constant_stays_what_it_is(self, options):
        """However long: a rounding that went one way would show."""
        x0 = jnp.asarray(np.random.default_rng(3).standard_normal(100), jnp.float32)
        tx = co.polyak_average(**options)

        def step(state, _):
            return tx.update(jnp.zeros_like(x0), state, x0)[1], None

        state, _ = jax.lax.scan(step, tx.init(x0), length=100_000)
        np.testing.assert_array_equal(co.averaged_params(state), x0)

    @every_variant
    def test_complex(self, options):
        x0 = jnp.array([1 + 2j, -1j])
        points, state = run(after_sgd(0.9, **options), x0, gradients(x0))
        parts = []
        for part in (jnp.real, jnp.imag):
            tx = co.polyak_average(0.9, **options)
            part_state, x = tx.init(part(x0)), part(x0)
            for point in points:
                _, part_state = tx.update(part(point) - x, part_state, x)
                x = part(point)
            parts.append(co.averaged_params(part_state))
        np.testing.assert_allclose(co.averaged_params(state), parts[0] + 1j * parts[1], rtol=1e-5)

    def test_the_updates_pass_as_they_are(self):
        tx = co.polyak_average()
        updates = {"w": jnp.ones(3, jnp.bfloat16)}
        passed, _ = tx.update(updates, tx.init(updates), updates, value=1.0, any_other=None)
        assert passed is updates

    def test_the_count_saturates(self):
        tx = co.polyak_average(uniform=True)
        last = np.iinfo(np.int32).max
        state = tx.init(jnp.zeros(()))._replace(count=jnp.int32(last))
        _, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
        assert state.count == last
        np.testing.assert_allclose(state.average, 1 / last, rtol=1e-6)

    @every_variant
    def test_an_element_that_is_not_finite_is_left_out(self, options):
        tx = co.polyak_average(0.5, **options)
        x0 = jnp.array([1.0, 1.0, 1.0])
        state = tx.init(x0)
        _, state = tx.update(jnp.array([1.0, jnp.nan, jnp.inf]), state, x0)
        first = 1.5 if not options else 2.0
        np.testing.assert_array_equal(co.averaged_params(state), [first, 1.0, 1.0])

    @every_variant
    def test_a_point_may_be_left_out(self, options):
        tx = co.polyak_average(0.9, **options)
        x0 = jnp.array([1.0, 2.0])
        _, state = tx.update(x0, tx.init(x0), x0)
        for accept in (False, jnp.array(False)):
            _, same = jax.jit(tx.update)(x0, state, x0, accept=accept)
            assert_same_state(same, state)


class TestPrecision:
    @every_variant
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
    def test_eager_and_compiled_agree_bit_for_bit(self, dtype, options):
        """XLA for a compiled step would skip the rounding of a narrow x, and fuse w (x - x̄) + x̄."""
        tx = co.polyak_average(0.99, **options)
        x0 = gradients(jnp.zeros(500, dtype), 1, seed=1)[0]
        stream = gradients(x0, 30, scale=1e-2)
        (points, eager), (_, jitted) = (run(tx, x0, stream, jit) for jit in (False, True))

        def body(carry, u):
            x, state = carry
            _, state = tx.update(u, state, x)
            return (optax.apply_updates(x, u), state), None

        scan = jax.jit(lambda us: jax.lax.scan(body, (x0, tx.init(x0)), us)[0][1])
        assert_same_state(jitted, eager)
        assert_same_state(scan(jnp.stack(stream)), eager)
        assert eager.average.dtype == jnp.result_type(dtype, jnp.float32)
        assert points[0].dtype == dtype

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_narrow_parameters_are_averaged_in_float32(self, dtype):
        """Of the values that the loop sees, to the last bit of float32, subnormal ones too."""
        x0 = jnp.asarray([1.0, 3.0, -(2.0**-18), 2.0**-20], dtype)
        stream = [g * jnp.asarray([1, 1, 2.0**-18, 2.0**-20], dtype) for g in gradients(x0)]
        points, state = run(after_sgd(0.9), x0, stream)
        mean = np.asarray(x0, np.float64)
        for x in points:
            mean = mean + 0.1 * (np.asarray(x, np.float64) - mean)
        np.testing.assert_allclose(co.averaged_params(state), mean, rtol=2e-6)

    @every_variant
    def test_strict_promotion_with_wide_hyperparameters(self, options):
        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            x = {"h": jnp.ones(2, jnp.bfloat16), "s": jnp.ones(2, jnp.float32)}
            x |= {"d": jnp.ones(2, jnp.float64), "c": jnp.ones(2, jnp.complex64)}
            dtypes = [jnp.complex64, jnp.float64, jnp.float32, jnp.float32]
            for decay in (0.9, jnp.float32(0.9), jnp.float64(0.9)):
                tx = co.polyak_average(decay, **options)
                _, state = jax.jit(tx.update)(x, tx.init(x), x)
                assert [leaf.dtype for leaf in jax.tree.leaves(state.average)] == dtypes


class TestPlaces:
    """Where in a state an average is found."""

    @every_variant
    def test_injected_with_a_traced_decay(self, options):
        x0 = jnp.array([1.0, -2.0])
        make = functools.partial(co.polyak_average, **options)
        tx = optax.chain(co.sgd(0.1), optax.inject_hyperparams(make)(decay=0.75))
        _, state = run(tx, x0, gradients(x0))
        assert state[1].hyperparams["decay"].dtype == jnp.float32
        _, expected = run(after_sgd(0.75, **options), x0, gradients(x0))
        assert_close(co.averaged_params(state), co.averaged_params(expected), rtol=1e-6)

    def test_a_sweep_over_the_decay_is_a_vmap(self):
        x0, stream = jnp.array([1.0, -2.0]), gradients(jnp.zeros(2))
        traces = 0

        @jax.jit
        @jax.vmap
        def sweep(decay):
            nonlocal traces
            traces += 1
            tx = after_sgd(decay)

            def step(carry, g):
                x, state = carry
                updates, state = tx.update(g, state, x)
                return (optax.apply_updates(x, updates), state), None

            return jax.lax.scan(step, (x0, tx.init(x0)), jnp.stack(stream))[0][1]

        decays = np.array([0.0, 0.5, 0.995], np.float32)
        states = sweep(decays)
        sweep(decays / 2)
        assert traces == 1
        for decay, average in zip(decays, co.averaged_params(states), strict=True):
            _, alone = run(after_sgd(float(decay)), x0, stream)
            np.testing.assert_allclose(average, co.averaged_params(alone), rtol=1e-5)

    def test_after_a_partition(self):
        x0 = jax.tree.map(functools.partial(jnp.asarray, dtype=jnp.float32), X0)
        parts = optax.partition({"a": co.sgd(0.1), "b": co.sgd(0.1)}, {"w": "a", "b": "b"})
        _, state = run(optax.chain(parts, co.polyak_average(0.5)), x0, gradients(x0))
        _, expected = run(after_sgd(0.5), x0, gradients(x0))
        assert_same_state(co.averaged_params(state), co.averaged_params(expected))

    def test_what_a_mask_kept_away_is_missed(self):
        x0 = {"w": jnp.ones(2), "b": jnp.zeros(())}
        state = optax.masked(after_sgd(), {"w": True, "b": False}).init(x0)
        with pytest.raises(ValueError, match=r"put it outside, optax.chain\(optax.masked"):
            co.averaged_params(state)
        masked = optax.masked(co.sgd(0.1), {"w": True, "b": False})
        outside = optax.chain(masked, co.polyak_average())
        assert_same_state(co.averaged_params(outside.init(x0)), x0)

    def test_two_averages(self):
        tx = optax.chain(co.polyak_average(0.9), co.polyak_average(0.99))
        with pytest.raises(ValueError, match="states of polyak_average"):
            co.averaged_params(tx.init(X0))

    def test_empty_trees(self):
        assert co.averaged_params(co.polyak_average().init({})) == {}
        assert co.averaged_params(co.polyak_average().init({"a": None})) == {"a": None}


REMEDY = r"use fit\(..., averaging=polyak_average\(\)\) or minimize\(..., averaging=...\)"
REJECTING = {
    "lbfgs": co.lbfgs(),
    "bfgs": co.bfgs(),
    "newton": co.newton(),
    "newton_cg": co.newton_cg(),
    "descent": co.with_line_search(optax.identity()),
}


def quartic(x, *args):
    """A valley, in which every line search rejects points."""
    del args
    return 10 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


START = np.array([-1.2, 1.0])


def accepted_points(tx, x, num_evals):
    """What an ordinary loop accepts, in order, and how many trials it rejects."""
    steps = trials.run(tx, quartic, x, max_evals=num_evals)
    points = [step.params for step in steps if co.accepted(step.state)]
    return points, len(steps) - len(points)


@pytest.mark.parametrize("name", REJECTING)
class TestRejectedTrials:
    @pytest.mark.parametrize(
        ("averaging", "read"),
        [
            (co.polyak_average(), co.averaged_params),
            (co.snapshots(2, 3), co.snapshot_params),
            (co.snapshots(2, 3), co.snapshots_filled),
        ],
    )
    def test_an_average_chained_after_them_is_refused(self, name, averaging, read):
        tx = optax.chain(REJECTING[name], averaging)
        x0 = jnp.asarray(START, jnp.float32)
        with pytest.raises(ValueError, match=REMEDY):
            read(tx.init(x0))
        with pytest.raises(ValueError, match=REMEDY):
            co.minimize(quartic, x0, tx)
        with pytest.raises(ValueError, match=REMEDY):
            co.fit(quartic, x0, tx, jnp.zeros(1), steps=1)

    def test_minimize_averages_the_accepted_points(self, name):
        with jax.enable_x64(True):
            x0 = jnp.asarray(START)
            averaging = co.polyak_average(0.8)
            result = jax.jit(
                lambda x: co.minimize(quartic, x, REJECTING[name], averaging=averaging)
            )(x0)
            plain = jax.jit(lambda x: co.minimize(quartic, x, REJECTING[name]))(x0)
            points, rejected = accepted_points(REJECTING[name], x0, int(result.num_evals))
            x_test = START
            for x in points[1:]:
                x_test = 0.8 * x_test + 0.2 * x
            assert rejected > 0
            assert len(points) - 1 == result.num_steps
            np.testing.assert_allclose(co.averaged_params(result.state), x_test, rtol=1e-9)
            assert_same_state(result._replace(state=None), plain._replace(state=None))


class TestMinimize:
    def test_without_trials_every_evaluated_point_after_the_first(self):
        averaging = co.polyak_average(uniform=True)
        result = co.minimize(quartic, START, co.sgd(1e-3), max_evals=30, averaging=averaging)
        x, points = jnp.asarray(START, jnp.float32), []
        for _ in range(29):
            x = x - np.float32(1e-3) * jax.grad(quartic)(x)
            points.append(x)
        np.testing.assert_allclose(
            co.averaged_params(result.state), np.mean(points, axis=0), rtol=1e-5
        )

    def test_chained_to_a_method_without_trials(self):
        """With the point after the last evaluation: a chain hears of it before it is judged."""
        tx = optax.chain(co.sgd(1e-3), co.polyak_average(0.9))
        result = co.minimize(quartic, START, tx, max_evals=30)
        x = x_test = jnp.asarray(START, jnp.float32)
        for _ in range(30):
            x = x - np.float32(1e-3) * jax.grad(quartic)(x)
            x_test = 0.9 * x_test + 0.1 * x
        np.testing.assert_allclose(co.averaged_params(result.state), x_test, rtol=1e-5)

    def test_a_failed_run_keeps_the_average_of_what_it_accepted(self):
        """The step x ← x - 4 x³ leaves the range of float32 within a few steps."""
        averaging = co.polyak_average(uniform=True)
        result = co.minimize(lambda x: x**4, np.float32(3), co.sgd(1.0), averaging=averaging)
        assert result.status == co.Status.FAILED
        x, points = np.float32(3), []
        for _ in range(int(result.num_steps)):
            x = x - 4 * x**3
            points.append(x)
        np.testing.assert_allclose(co.averaged_params(result.state), np.mean(points), rtol=1e-5)

    @pytest.mark.parametrize("tx", [co.sgd(0.2), REJECTING["descent"]], ids=["sgd", "descent"])
    def test_a_batch_is_its_lanes_alone(self, tx):
        """Lanes that end early keep their averages while the others go on."""

        def solve(x):
            averaging = co.polyak_average(uniform=True)
            return co.minimize(lambda x: jnp.sum(x**2 + x**4), x, tx, averaging=averaging)

        starts = jnp.array([[0.0, 0.0], [1.2, -0.1], [0.02, 0.01]])
        batch = jax.jit(jax.vmap(solve))(starts)
        assert len({int(n) for n in batch.num_evals}) == 3
        np.testing.assert_array_equal(batch.state.averaging.count, batch.num_steps)
        for i, start in enumerate(starts):
            alone = co.averaged_params(jax.jit(solve)(start).state)
            average = co.averaged_params(batch.state)[i]
            np.testing.assert_allclose(average, alone, rtol=1e-4, atol=1e-6)

    def test_goes_on_with_its_average(self):
        solve = functools.partial(
            co.minimize, quartic, tx=REJECTING["descent"], averaging=co.polyak_average(uniform=True)
        )
        first = solve(START, max_evals=10)
        second = solve(first.params, state=first.state)
        assert second.state.averaging.count == first.num_steps + second.num_steps
        with pytest.raises(ValueError, match="state is not one of this transformation"):
            co.minimize(quartic, START, REJECTING["descent"], state=first.state)

    def test_derivatives_pass_it_by(self):
        def fun(x, a):
            return jnp.sum((x - a) ** 2 + x**4)

        def solution(a, averaging):
            return co.minimize(
                fun, jnp.zeros(()), REJECTING["descent"], args=(a,), averaging=averaging
            )

        with_it = jax.grad(lambda a: solution(a, co.polyak_average()).params)(1.0)
        assert with_it == jax.grad(lambda a: solution(a, None).params)(1.0)


KEY = jax.random.key(0)
MOMENTUM = co.momentum(0.05)
DATA = {"x": np.random.default_rng(5).standard_normal((40, 2)).astype(np.float32)}


def regression(w, batch):
    return jnp.mean((batch["x"] @ w - batch["x"] @ jnp.array([1.0, -2.0])) ** 2)


class TestFit:
    @staticmethod
    def fit(tx=MOMENTUM, **options):
        return co.fit(regression, jnp.zeros(2), tx, DATA, batch_size=8, key=KEY, **options)

    @every_variant
    def test_is_the_average_of_a_chain(self, options):
        average = co.polyak_average(0.9, **options)
        result = self.fit(steps=23, averaging=average)
        chained = self.fit(optax.chain(MOMENTUM, average), steps=23)
        assert_same_state(result.params, chained.params)
        assert_same_state(co.averaged_params(result.state), co.averaged_params(chained.state))
        assert result.state.opt_state.averaging.count == 23

    def test_nothing_else_changes(self):
        result, plain = self.fit(steps=23, averaging=co.polyak_average()), self.fit(steps=23)
        assert_same_state((result.params, result.history), (plain.params, plain.history))

    def test_goes_on_bit_for_bit(self):
        run_fit = functools.partial(self.fit, averaging=co.polyak_average(0.9))
        whole = run_fit(steps=23, chunk_size=7)
        parts = run_fit(steps=12, state=run_fit(steps=11).state)
        assert_same_state(parts.params, whole.params)
        assert_same_state(parts.state.opt_state, whole.state.opt_state)

    def test_going_on_needs_the_same(self):
        for first, second in ((None, co.polyak_average()), (co.polyak_average(), None)):
            state = self.fit(steps=2, averaging=first).state
            with pytest.raises(ValueError, match="the state is that of a fit with"):
                self.fit(steps=2, averaging=second, state=state)

    @pytest.mark.filterwarnings("ignore::cs231n_optax.DivergenceWarning")
    @pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, 1e5])
    def test_a_run_that_diverges_keeps_a_finite_average(self, bad):
        """Parameters that give a non-finite loss have been averaged, but for what is not finite."""

        def explode(step):
            return jnp.where(step == 4, bad, 1.0)

        def line(x, batch):
            return jnp.where(jnp.abs(x) > 1e4, jnp.inf, x) + 0 * jnp.sum(batch)

        tx = optax.chain(optax.scale_by_schedule(explode), optax.scale(-1.0))
        result = co.fit(
            line,
            jnp.float32(0),
            tx,
            jnp.zeros(1),
            steps=20,
            averaging=co.polyak_average(uniform=True),
        )
        assert result.state.nonfinite_step == 5
        points = [-1.0, -2.0, -3.0, -4.0, *([-4.0 - bad] if np.isfinite(bad) else [])]
        np.testing.assert_allclose(co.averaged_params(result.state), np.mean(points), rtol=1e-6)

    def test_a_sweep_is_a_vmap(self):
        def final(decay):
            result = self.fit(steps=20, averaging=co.polyak_average(decay))
            return co.averaged_params(result.state)

        decays = np.array([0.3, 0.9], np.float32)
        batch = jax.jit(jax.vmap(final))(decays)
        for decay, average in zip(decays, batch, strict=True):
            np.testing.assert_allclose(average, final(float(decay)), rtol=1e-5)

    def test_fit_averages_the_accepted_points(self):
        x0 = jnp.asarray(START, jnp.float32)
        run_fit = functools.partial(
            co.fit,
            quartic,
            x0,
            REJECTING["descent"],
            jnp.zeros(1),
            averaging=co.polyak_average(0.8),
        )
        result = run_fit(steps=25)
        points, _ = accepted_points(REJECTING["descent"], x0, 25)
        x_test = START
        for x in points[1:]:
            x_test = 0.8 * x_test + 0.2 * x
        np.testing.assert_allclose(co.averaged_params(result.state), x_test, rtol=2e-4)
        assert_same_state(run_fit(steps=14, state=run_fit(steps=11).state).state, result.state)

    def test_both_averages_at_once(self):
        both = optax.chain(co.polyak_average(0.9), co.snapshots(2, every=5))
        state = self.fit(steps=20, averaging=both).state
        alone = self.fit(steps=20, averaging=co.polyak_average(0.9)).state
        assert_same_state(co.averaged_params(state), co.averaged_params(alone))
        assert_same_state(co.snapshot_params(state)[1], state.params)
