"""Decisions inside a batch: one for the batch where asked so, and each lane its own result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cs231n_optax._lanes import any_lane, in_one_kernel, this_lane

FLAGS = np.array(
    [[True, False, True], [False, False, False], [True, True, True], [False, True, False]]
)


def equations(jaxpr):
    """Every equation of a jaxpr, of the jaxprs inside it, too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def conds(fun, *args):
    """The shapes of the predicates of the conds that remain in a function."""
    jaxpr = jax.make_jaxpr(fun)(*args).jaxpr
    return [e.invars[0].aval.shape for e in equations(jaxpr) if e.primitive.name == "cond"]


class TestAnyLane:
    @pytest.mark.parametrize("flag", [True, False])
    def test_outside_of_a_batch_it_is_the_flag(self, flag):
        assert any_lane(jnp.array(flag)) == flag
        assert jax.jit(any_lane)(flag) == flag

    @pytest.mark.parametrize("flags", FLAGS)
    def test_in_a_batch_it_is_any(self, flags):
        out = jax.vmap(any_lane)(jnp.array(flags))
        np.testing.assert_array_equal(out, [flags.any()] * 3)

    def test_its_result_has_no_batch(self):
        assert jax.vmap(any_lane, out_axes=None)(jnp.array(FLAGS[0])).shape == ()

    def test_of_several_batches_it_is_one_for_all(self):
        nested = jax.vmap(jax.vmap(any_lane))
        np.testing.assert_array_equal(nested(jnp.array(FLAGS)), np.ones((4, 3), bool))
        np.testing.assert_array_equal(nested(jnp.zeros((4, 3), bool)), np.zeros((4, 3), bool))
        transposed = jax.vmap(jax.jit(jax.vmap(any_lane, in_axes=1)), in_axes=2)
        out = transposed(jnp.array(FLAGS.reshape(2, 2, 3)))
        np.testing.assert_array_equal(out, np.ones((3, 2, 2), bool))

    def test_a_flag_without_a_batch_is_left_alone(self):
        out = jax.vmap(lambda x, flag: any_lane(flag) & (x > 0), in_axes=(0, None))(
            jnp.arange(3), jnp.array(False)
        )
        np.testing.assert_array_equal(out, [False] * 3)


class TestThisLane:
    @pytest.mark.parametrize("flag", [True, False])
    def test_outside_of_a_batch_it_is_true(self, flag):
        """It is asked only where the flag is set: a select by it costs nothing."""
        assert this_lane(jnp.array(flag))
        text = jax.jit(lambda f, x: jnp.where(this_lane(f), x, 0)).lower(True, 1.0).compile()
        assert "select" not in text.as_text()

    @pytest.mark.parametrize("flags", [FLAGS, ~FLAGS, np.zeros_like(FLAGS), np.ones_like(FLAGS)])
    def test_together_with_any_lane_it_is_the_flag(self, flags):
        def both(flag):
            return any_lane(flag) & this_lane(flag)

        for batched, given in (
            (both, flags[0, 0]),
            (jax.jit(both), flags[0, 0]),
            (jax.vmap(both), flags[0]),
            (jax.vmap(jax.vmap(both)), flags),
            (jax.jit(jax.vmap(jax.jit(jax.vmap(both, 1, 1)), 1, 1)), flags[:, :, None]),
            (jax.vmap(lambda f: jax.lax.map(both, f)), flags),
        ):
            np.testing.assert_array_equal(batched(jnp.array(given)), given)

    def test_batched_in_one_of_two_batches(self):
        both = jax.vmap(
            jax.vmap(lambda f, x: (any_lane(f) & this_lane(f), x), (None, 0)), (0, None)
        )
        out, _ = both(jnp.array(FLAGS[0]), jnp.arange(2))
        np.testing.assert_array_equal(out, np.stack([FLAGS[0]] * 2, 1))


def thrice(x, flag):
    """An expensive branch, for the lanes that want it."""
    new = jax.lax.cond(any_lane(flag), lambda: 3 * x, lambda: x)
    return jnp.where(this_lane(flag), new, x)


X = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)


class TestCond:
    @pytest.mark.parametrize("flags", [FLAGS, np.zeros_like(FLAGS), np.ones_like(FLAGS)])
    def test_each_lane_has_its_own_result(self, flags):
        expected = np.where(flags, 3 * X, X)
        np.testing.assert_array_equal(jax.vmap(jax.vmap(thrice))(X, flags), expected)
        np.testing.assert_array_equal(jax.jit(jax.vmap(thrice))(X[1], flags[1]), expected[1])
        assert thrice(X[2, 1], jnp.array(flags[2, 1])) == expected[2, 1]

    def test_it_stays_a_cond(self):
        def plain(x, flag):
            return jax.lax.cond(flag, lambda: 3 * x, lambda: x)

        assert conds(thrice, X[0, 0], FLAGS[0, 0]) == [()]
        assert conds(jax.vmap(thrice), X[0], FLAGS[0]) == [()]
        assert conds(jax.vmap(jax.vmap(thrice)), X, FLAGS) == [()]
        assert conds(jax.vmap(plain), X[0], FLAGS[0]) == []  # what it is good for

    def test_a_batch_skips_what_no_lane_wants(self):
        runs = []

        def counted(x, flag):
            def branch():
                jax.debug.callback(lambda: runs.append(1))
                return 3 * x

            return jax.lax.cond(any_lane(flag), branch, lambda: x)

        batch = jax.jit(jax.vmap(counted))
        for flags, expected in ((np.zeros(3, bool), 0), (FLAGS[0], 1), (np.ones(3, bool), 1)):
            runs.clear()
            jax.block_until_ready(batch(X[0], flags))
            jax.effects_barrier()
            assert len(runs) == expected

    def test_derivatives(self):
        def fun(x):
            flag = x > 0
            square = jax.lax.cond(any_lane(flag), lambda: x**2, lambda: 0 * x)
            return jnp.where(this_lane(flag), square, -x)

        x = jnp.array([-1.0, 2.0, 3.0])
        np.testing.assert_array_equal(jax.vmap(jax.grad(fun))(x), [-1, 4, 6])
        np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(fun)))(x), [0, 2, 2])
        batch = jax.vmap(fun)
        np.testing.assert_array_equal(jax.jacfwd(batch)(x), np.diag([-1.0, 4, 6]))
        np.testing.assert_array_equal(jax.jacrev(batch)(x), np.diag([-1.0, 4, 6]))
        np.testing.assert_array_equal(jax.vmap(jax.grad(fun))(-jnp.abs(x)), [-1, -1, -1])
        assert jax.grad(fun)(2.0) == 4


class TestWhile:
    def test_a_batch_loops_until_its_last_lane_ends(self):
        rounds = []

        def halvings(x):
            """How often a number can be halved before it is below one."""

            def body(carry):
                x, n = carry
                jax.debug.callback(lambda: rounds.append(1))
                here = this_lane(x >= 1)
                return jnp.where(here, x / 2, x), jnp.where(here, n + 1, n)

            return jax.lax.while_loop(lambda c: any_lane(c[0] >= 1), body, (x, 0))

        x = np.array([[0.5, 1.0, 7.0], [64.0, 0.1, 3.0]], np.float32)
        expected = np.array([[0, 1, 3], [7, 0, 2]])
        for batch, given, counts in (
            (halvings, x[1, 0], expected[1, 0]),
            (jax.vmap(halvings), x[0], expected[0]),
            (jax.vmap(jax.vmap(halvings)), x, expected),
        ):
            rounds.clear()
            rest, n = batch(jnp.array(given))
            jax.effects_barrier()
            np.testing.assert_array_equal(n, counts)
            np.testing.assert_array_equal(rest, given / 2.0**counts)
            assert len(rounds) == np.max(counts)

    def test_its_condition_has_no_batch(self):
        def loop(x):
            return jax.lax.while_loop(lambda x: any_lane(x > 1), lambda x: x / 2, x)

        jaxpr = jax.make_jaxpr(jax.vmap(jax.vmap(loop)))(X).jaxpr
        (equation,) = (e for e in jaxpr.eqns if e.primitive.name == "while")
        (condition,) = equation.params["cond_jaxpr"].jaxpr.outvars
        assert condition.aval.shape == ()
        assert all(e.primitive.name != "select_n" for e in equations(jaxpr))


def follow(state, x, n):
    return {"sum": state["sum"] + x, "log": jnp.log(x), "count": state["count"] + n}


STATE = {"sum": np.float32(1), "log": np.float32(2), "count": np.int32(3)}


class TestInOneKernel:
    @staticmethod
    def run(wanted, x):
        return in_one_kernel(wanted, follow, jax.tree.map(jnp.asarray, STATE), x, jnp.int32(4))

    @staticmethod
    def expected(wanted, x):
        return {
            "sum": np.where(wanted, 1 + x, 1),
            "log": np.where(wanted, np.log(np.where(wanted, x, 1)), 2),
            "count": np.where(wanted, 7, 3),
        }

    @pytest.mark.parametrize("flags", [FLAGS, np.zeros_like(FLAGS), np.ones_like(FLAGS)])
    def test_it_is_the_transition_where_wanted(self, flags):
        """The logarithms of what is not wanted are NaN, and stay out."""
        x = np.where(flags, X, -X)
        for batch, lanes in (
            (self.run, (1, 0)),
            (jax.jit(self.run), (0, 1)),
            (jax.vmap(self.run), 0),
            (jax.vmap(jax.vmap(self.run)), ...),
            (jax.jit(jax.vmap(jax.jit(jax.vmap(self.run)))), ...),
        ):
            out = batch(jnp.asarray(flags[lanes]), jnp.asarray(x[lanes]))
            expected = self.expected(flags[lanes], x[lanes])
            for name in STATE:
                np.testing.assert_allclose(out[name], expected[name], rtol=1e-6)
                assert out[name].dtype == STATE[name].dtype

    def test_a_batched_flag_for_inputs_without_a_batch(self):
        out = jax.vmap(self.run, (0, None))(jnp.array(FLAGS[0]), 5.0)
        np.testing.assert_array_equal(out["sum"], [6, 1, 6])

    def test_a_batch_of_inputs_under_one_flag(self):
        for flag in (True, False):
            out = jax.vmap(self.run, (None, 0))(jnp.array(flag), X[0])
            np.testing.assert_array_equal(out["sum"], np.where(flag, 1 + X[0], 1))

    def test_inside_a_loop_of_many_lanes(self):
        """Each lane counts its own even numbers, in a scan of all of them."""

        def count(numbers):
            def step(state, k):
                return in_one_kernel(k % 2 == 0, lambda n, k: n + k, state, k), None

            return jax.lax.scan(step, jnp.int32(0), numbers)[0]

        numbers = np.random.default_rng(0).integers(0, 100, (5, 20)).astype(np.int32)
        expected = np.where(numbers % 2 == 0, numbers, 0).sum(1)
        np.testing.assert_array_equal(jax.jit(jax.vmap(count))(numbers), expected)

    def test_it_is_one_loop_for_the_batch(self):
        jaxpr = jax.make_jaxpr(jax.vmap(self.run))(FLAGS[0], X[0]).jaxpr
        loops = [e for e in equations(jaxpr) if e.primitive.name == "while"]
        assert [e.params["cond_jaxpr"].jaxpr.outvars[0].aval.shape for e in loops] == [()]

    def test_forward_derivatives(self):
        def square(x):
            return in_one_kernel(x > 0, lambda state, x: state * x, x, x)

        slopes = jax.jit(jax.vmap(jax.jacfwd(square)))(jnp.array([-1.0, 2.0, 3.0]))
        np.testing.assert_array_equal(slopes, [1, 4, 6])

    def test_no_reverse_derivatives_through_a_loop(self):
        with pytest.raises(ValueError, match="while_loop"):
            jax.grad(lambda x: in_one_kernel(x > 0, lambda s, x: s * x, x, x))(2.0)
