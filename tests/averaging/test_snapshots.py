"""`snapshots`: which points are copied, into which rows, and where the ring is found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trials
from trials import assert_same_state

import cs231n_optax as co


def visit(tx, num_steps, x0=0.0, jit=True):
    """The state after some updates of 1: the point after update t is x₀ + t."""

    def step(x, state):
        updates, state = tx.update(jnp.ones_like(x), state, x)
        return optax.apply_updates(x, updates), state

    step = jax.jit(step) if jit else step
    x = jnp.asarray(x0, jnp.float32)
    state = tx.init(x)
    for _ in range(num_steps):
        x, state = step(x, state)
    return state


def expected_ring(num, every, num_steps):
    """Copies and flags, from a list that is kept in Python."""
    copies, filled, taken = [0.0] * num, [False] * num, 0
    for t in range(1, num_steps + 1):
        if t % every == 0:
            copies[taken % num], filled[taken % num] = float(t), True
            taken += 1
    return copies, filled


class TestRing:
    @pytest.mark.parametrize(
        ("num_steps", "copies", "filled"),
        [
            (2, [0, 0], [False, False]),
            (3, [3, 0], [True, False]),
            (4, [3, 0], [True, False]),
            (5, [3, 0], [True, False]),
            (6, [3, 6], [True, True]),
            (7, [3, 6], [True, True]),
            (9, [9, 6], [True, True]),
        ],
    )
    @pytest.mark.parametrize("every", [3, 3.0, jnp.int32(3), jnp.float32(3)])
    def test_two_copies_one_every_three_updates(self, num_steps, copies, filled, every):
        state = visit(co.snapshots(2, every), num_steps)
        np.testing.assert_array_equal(co.snapshot_params(state), copies)
        np.testing.assert_array_equal(co.snapshots_filled(state), filled)

    @pytest.mark.parametrize("num", [1, 3])
    @pytest.mark.parametrize("every", [1, 2, 5])
    def test_other_sizes(self, num, every):
        tx = co.snapshots(num, every)
        for num_steps in range(12):
            state = visit(tx, num_steps, jit=False)
            copies, filled = expected_ring(num, every, num_steps)
            np.testing.assert_array_equal(co.snapshot_params(state), copies)
            np.testing.assert_array_equal(co.snapshots_filled(state), filled)

    def test_a_cycle_that_is_not_whole_ends_where_the_schedules_does(self):
        """With C = 2.5: cyclic_cosine begins anew at steps 3, 5, 8, 10, counted from 0."""
        rates = co.cyclic_cosine(1.0, 2.5)(jnp.arange(11))
        ends = [t for t in range(1, 11) if rates[t] > rates[t - 1]]
        assert ends == [3, 5, 8, 10]
        for every in (2.5, jnp.float32(2.5)):
            state = visit(co.snapshots(4, every), 10)
            np.testing.assert_array_equal(co.snapshot_params(state), ends)

    def test_an_integer_cycle_is_exact_beyond_float32(self):
        start = 2**24 + 2
        state = co.snapshots(8, 3).init(jnp.zeros(()))._replace(count=jnp.int32(start))

        def step(state, t):
            return co.snapshots(8, 3).update(t, state, jnp.zeros(()))[1], None

        state, _ = jax.lax.scan(step, state, jnp.arange(1.0, 10.0))
        ends = [t for t in range(1, 10) if (start + t) % 3 == 0]
        np.testing.assert_array_equal(co.snapshot_params(state)[:3], ends)
        assert co.snapshots_filled(state).sum() == 3

    def test_the_count_saturates(self):
        last = np.iinfo(np.int32).max
        state = co.snapshots(2, 1).init(jnp.zeros(()))._replace(count=jnp.int32(last))
        _, after = co.snapshots(2, 1).update(jnp.ones(()), state, jnp.zeros(()))
        assert_same_state(after, state)

    def test_a_point_may_be_left_uncounted(self):
        tx = co.snapshots(2, 2)
        x, state = jnp.zeros(()), tx.init(jnp.zeros(()))
        for t, accept in enumerate([True, False, True, False, True, True]):
            _, state = jax.jit(tx.update)(jnp.float32(t + 1), state, x, accept=accept)
        np.testing.assert_array_equal(co.snapshot_params(state), [3, 6])
        assert state.count == 4

    def test_the_updates_pass_as_they_are(self):
        tx = co.snapshots(2, 2)
        updates = {"w": jnp.ones(3, jnp.bfloat16)}
        passed, _ = tx.update(updates, tx.init(updates), updates, value=1.0, any_other=None)
        assert passed is updates


class TestCyclicCosine:
    def test_the_copies_are_the_points_after_each_cycles_smallest_step(self):
        """Seven epochs of gradient descent in NumPy, in three cycles of seven steps."""
        cycle, num_steps = 7, 21
        with jax.enable_x64(True):
            x = jnp.array([3.0, -2.0])
            tx = optax.chain(co.sgd(co.cyclic_cosine(0.3, cycle)), co.snapshots(num=3, every=cycle))
            state, traces = tx.init(x), 0

            @jax.jit
            def step(x, state):
                nonlocal traces
                traces += 1
                updates, state = tx.update(2 * x - 1, state, x)
                return optax.apply_updates(x, updates), state

            y, ends, rates = np.array([3.0, -2.0]), [], []
            for t in range(num_steps):
                x, state = step(x, state)
                rates.append(0.15 * (np.cos(np.pi * (t % cycle) / cycle) + 1))
                y = y - rates[-1] * (2 * y - 1)
                if t % cycle == cycle - 1:
                    assert rates[-1] == min(rates)
                    ends.append(y)
        assert traces == 1
        assert co.snapshots_filled(state).all()
        np.testing.assert_allclose(co.snapshot_params(state), ends, rtol=1e-12)

    def test_a_sweep_over_the_cycle_is_a_vmap(self):
        cycles = jnp.array([2, 3, 5])

        @jax.jit
        @jax.vmap
        def sweep(cycle):
            tx = co.snapshots(2, cycle)

            def step(state, t):
                return tx.update(t, state, jnp.zeros(()))[1], None

            return jax.lax.scan(step, tx.init(jnp.zeros(())), jnp.arange(1.0, 10.0))[0]

        states = sweep(cycles)
        rings = [expected_ring(2, cycle, 9) for cycle in (2, 3, 5)]
        np.testing.assert_array_equal(co.snapshot_params(states), [ring for ring, _ in rings])
        np.testing.assert_array_equal(co.snapshots_filled(states), [flags for _, flags in rings])


class TestPrecision:
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_copies_are_the_rounded_points_in_float32(self, dtype):
        rng = np.random.default_rng(0)
        tx = co.snapshots(8, 1)
        x = jnp.asarray(rng.standard_normal(100), dtype)
        eager = jitted = tx.init(x)
        points = []
        for _ in range(8):
            u = jnp.asarray(rng.standard_normal(100) * 1e-2, dtype)
            _, eager = tx.update(u, eager, x)
            _, jitted = jax.jit(tx.update)(u, jitted, x)
            x = optax.apply_updates(x, u)
            points.append(np.asarray(x, np.float32))
        copies = co.snapshot_params(jitted)
        assert copies.dtype == jnp.float32
        np.testing.assert_array_equal(copies, points)
        assert_same_state(jitted, eager)

    @pytest.mark.parametrize("dtype", ["float64", "complex64"])
    def test_wide_ones_keep_their_dtype(self, dtype):
        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            x = jnp.asarray([1 / 3, 2.0], dtype)
            for every in (1, jnp.int32(1), jnp.float32(1), jnp.float64(1)):
                tx = co.snapshots(2, every)
                _, state = jax.jit(tx.update)(x, tx.init(x), x)
                assert co.snapshot_params(state).dtype == dtype
                np.testing.assert_array_equal(co.snapshot_params(state)[0], x + x)


X0 = {"w": jnp.array([[2.0, -1.0], [0.5, 3.0]]), "b": jnp.array(0.3)}


def ring_of(tx, num_steps=6):
    x, state = X0, tx.init(X0)
    for t in range(num_steps):
        updates, state = tx.update(jax.tree.map(lambda x, t=t: x * 0 + t, X0), state, x)
        x = optax.apply_updates(x, updates)
    return state


class TestPlaces:
    def test_injected(self):
        inject = optax.inject_hyperparams(co.snapshots, static_args="num")
        state = ring_of(optax.chain(co.sgd(0.1), inject(num=2, every=2)))
        expected = ring_of(optax.chain(co.sgd(0.1), co.snapshots(2, 2)))
        assert_same_state(co.snapshot_params(state), co.snapshot_params(expected))

    def test_after_a_partition(self):
        parts = optax.partition({"a": co.sgd(0.1), "b": co.sgd(0.1)}, {"w": "a", "b": "b"})
        state = ring_of(optax.chain(parts, co.snapshots(2, 2)))
        expected = ring_of(optax.chain(co.sgd(0.1), co.snapshots(2, 2)))
        assert_same_state(co.snapshot_params(state), co.snapshot_params(expected))

    def test_what_a_mask_kept_away_is_missed(self):
        state = optax.masked(co.snapshots(2, 2), {"w": True, "b": False}).init(X0)
        with pytest.raises(ValueError, match=r"snapshots has not seen every parameter"):
            co.snapshot_params(state)

    def test_two_rings(self):
        tx = optax.chain(co.snapshots(2, 2), co.snapshots(2, 2))
        with pytest.raises(ValueError, match="states of snapshots"):
            co.snapshot_params(tx.init(X0))

    def test_empty_trees(self):
        state = co.snapshots(2, 2).init({})
        assert co.snapshot_params(state) == {}
        np.testing.assert_array_equal(co.snapshots_filled(state), [False, False])


def valley(x, *args):
    del args
    return 10 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


class TestAcceptedPoints:
    start = jnp.array([-1.2, 1.0])

    def accepted_points(self, num_evals):
        steps = trials.run(co.lbfgs(), valley, self.start, max_evals=num_evals)
        return [step.params for step in steps if co.accepted(step.state)]

    def test_minimize_counts_accepted_points(self):
        result = co.minimize(
            valley, self.start, co.lbfgs(), max_evals=16, averaging=co.snapshots(3, 2)
        )
        points = self.accepted_points(16)[1:]
        assert 6 <= len(points) < 15
        ends = points[1::2]
        expected = [ends[-1 - (len(ends) - 1 - row) % 3] for row in range(3)]
        np.testing.assert_allclose(co.snapshot_params(result.state), expected, rtol=1e-5)

    def test_fit_copies_every_cycle_and_goes_on_bit_for_bit(self):
        def loss(x, batch):
            return valley(x) + 0 * jnp.sum(batch)

        run = functools.partial(
            co.fit,
            loss,
            self.start,
            co.momentum(co.cyclic_cosine(1e-2, 5)),
            jnp.zeros(1),
            averaging=co.snapshots(3, 5),
        )
        whole = run(steps=20)
        parts = run(steps=9, state=run(steps=11).state)
        assert_same_state(parts.state, whole.state)
        ends = [run(steps=steps).params for steps in (20, 10, 15)]
        np.testing.assert_array_equal(co.snapshot_params(whole.state), ends)
        assert co.snapshots_filled(whole.state).all()

    def test_fit_shows_accepted_points_only(self):
        result = co.fit(
            lambda x, _: valley(x),
            self.start,
            co.lbfgs(),
            jnp.zeros(1),
            steps=12,
            averaging=co.snapshots(16, 1),
        )
        points = self.accepted_points(12)[1:]
        assert len(points) < 11
        assert co.snapshots_filled(result.state).sum() == len(points)
        copies = co.snapshot_params(result.state)[: len(points)]
        np.testing.assert_allclose(copies, points, rtol=1e-4)
