"""Decisions inside a batch: what one decides for all, and what each row keeps for itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cs231n_optax._batching import active_in_batch, any_in_batch, compute_if, fused_if

FLAGS = np.array(
    [[True, False, True], [False, False, False], [True, True, True], [False, True, False]]
)
X = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)
every_kind = pytest.mark.parametrize("flags", [FLAGS, np.zeros_like(FLAGS), np.ones_like(FLAGS)])


@every_kind
def test_any_in_batch_is_one_flag_for_all_batches(flags):
    assert any_in_batch(jnp.array(flags[0, 0])) == flags[0, 0]
    for row in flags:
        shared = jax.vmap(any_in_batch, out_axes=None)(jnp.array(row))
        assert shared.shape == ()
        assert shared == row.any()
    nested = jax.vmap(jax.jit(jax.vmap(any_in_batch, in_axes=1)), in_axes=2)
    np.testing.assert_array_equal(
        nested(jnp.array(flags.reshape(2, 2, 3))), np.full((3, 2, 2), flags.any())
    )


@every_kind
def test_any_and_active_in_batch_together_are_the_flag(flags):
    def both(flag):
        return any_in_batch(flag) & active_in_batch(flag)

    for batched, given in (
        (both, flags[0, 0]),
        (jax.vmap(both), flags[0]),
        (jax.jit(jax.vmap(jax.jit(jax.vmap(both, 1, 1)), 1, 1)), flags[:, :, None]),
        (jax.vmap(lambda f: jax.lax.map(both, f)), flags),
    ):
        np.testing.assert_array_equal(batched(jnp.array(given)), given)


def test_active_in_batch_costs_nothing_outside_of_a_batch():
    """It is a constant there, so that the select is folded away."""
    select = jax.jit(lambda flag, x: jnp.where(active_in_batch(flag), x, 0))
    assert "select" not in select.lower(True, 1.0).compile().as_text()


def tripled(x, flag):
    new = jax.lax.cond(any_in_batch(flag), lambda: 3 * x, lambda: x)
    return jnp.where(active_in_batch(flag), new, x)


@every_kind
def test_a_cond_stays_one_and_each_row_has_its_own_result(flags):
    expected = np.where(flags, 3 * X, X)
    np.testing.assert_array_equal(jax.vmap(jax.vmap(tripled))(X, flags), expected)
    assert str(jax.make_jaxpr(jax.vmap(jax.vmap(tripled)))(X, flags)).count(" cond[") == 1


def test_a_batch_skips_what_no_row_asks_for():
    runs = []

    def counted(x, flag):
        def branch():
            jax.debug.callback(lambda: runs.append(1))
            return 3 * x

        return jax.lax.cond(any_in_batch(flag), branch, lambda: x)

    batch = jax.jit(jax.vmap(counted))
    for flags, expected in ((np.zeros(3, bool), 0), (FLAGS[0], 1), (np.ones(3, bool), 1)):
        runs.clear()
        jax.block_until_ready(batch(X[0], flags))
        jax.effects_barrier()
        assert len(runs) == expected


def test_derivatives_through_a_cond():
    def fun(x):
        square = jax.lax.cond(any_in_batch(x > 0), lambda: x**2, lambda: 0 * x)
        return jnp.where(active_in_batch(x > 0), square, -x)

    x = jnp.array([-1.0, 2.0, 3.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(fun)))(x), [0, 2, 2])
    np.testing.assert_array_equal(jax.jacfwd(jax.vmap(fun))(x), np.diag([-1.0, 4, 6]))
    np.testing.assert_array_equal(jax.jacrev(jax.vmap(fun))(x), np.diag([-1.0, 4, 6]))


def test_a_loop_ends_with_the_last_row_of_the_batch():
    def halvings(x):
        """How often a number can be halved before it is below one."""

        def body(carry):
            x, n = carry
            here = active_in_batch(x >= 1)
            return jnp.where(here, x / 2, x), jnp.where(here, n + 1, n)

        return jax.lax.while_loop(lambda carry: any_in_batch(carry[0] >= 1), body, (x, 0))[1]

    x = np.array([[0.5, 1.0, 7.0], [64.0, 0.1, 3.0]], np.float32)
    batch = jax.vmap(jax.vmap(halvings))
    np.testing.assert_array_equal(batch(x), [[0, 1, 3], [7, 0, 2]])


@every_kind
def test_compute_if_is_a_select_that_computes_only_what_is_needed(flags, monkeypatch):
    def tripled(x, flag):
        return compute_if(flag, lambda: 3 * x, otherwise=x)

    batched, expected = jax.vmap(jax.vmap(tripled)), np.where(flags, 3 * X, X)
    np.testing.assert_array_equal(batched(X, flags), expected)
    np.testing.assert_array_equal(tripled(X, flags[0, 0]), 3 * X if flags[0, 0] else X)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda default, **_: default())
    np.testing.assert_array_equal(batched(X, flags), expected)
    np.testing.assert_array_equal(tripled(X, flags[0, 0]), 3 * X if flags[0, 0] else X)
    assert " cond[" not in str(jax.make_jaxpr(batched)(X, flags))


class TestFusedIf:
    @staticmethod
    def run(wanted, x):
        """Where the flag does not hold, the logarithm would be NaN."""

        def function(old):
            new = {"sum": old["sum"] + x, "log": jnp.log(x), "count": old["count"] + 4}
            return new, {"twice": 2 * x, "done": jnp.ones((), bool)}

        record = {"sum": jnp.float32(1), "log": jnp.float32(2), "count": jnp.int32(3)}
        record, outputs = fused_if(wanted, function, record)
        return record | outputs

    @every_kind
    def test_it_is_the_function_where_the_flag_holds(self, flags):
        x = np.where(flags, X, -X)
        expected = {
            "sum": np.where(flags, 1 + x, 1),
            "log": np.where(flags, np.log(X), 2),
            "count": np.where(flags, 7, 3),
            "twice": np.where(flags, 2 * x, 0),
            "done": flags,
        }
        out = jax.jit(jax.vmap(jax.vmap(self.run)))(jnp.asarray(flags), jnp.asarray(x))
        alone = self.run(jnp.array(flags[0, 1]), x[0, 1])
        dtypes = (np.float32, np.float32, np.int32, np.float32, bool)
        for name, dtype in zip(expected, dtypes, strict=True):
            np.testing.assert_allclose(out[name], expected[name], rtol=1e-6)
            np.testing.assert_allclose(alone[name], expected[name][0, 1], rtol=1e-6)
            assert out[name].dtype == alone[name].dtype == dtype

    def test_a_flag_or_an_input_without_a_batch(self):
        out = jax.vmap(self.run, (0, None))(jnp.array(FLAGS[0]), 5.0)
        np.testing.assert_array_equal(out["sum"], [6, 1, 6])
        out = jax.vmap(self.run, (None, 0))(jnp.array(True), X[0])
        np.testing.assert_array_equal(out["sum"], 1 + X[0])

    def test_it_is_one_loop_for_the_batch_on_a_cpu(self):
        jaxpr = jax.make_jaxpr(jax.vmap(self.run))(FLAGS[0], X[0])
        (choice,) = (e for e in jaxpr.eqns if e.primitive.name == "cond")
        on_cpu, elsewhere = choice.params["branches"]
        (loop,) = (e for e in on_cpu.jaxpr.eqns if e.primitive.name == "while")
        assert loop.params["cond_jaxpr"].out_avals[0].shape == ()
        assert "while" not in str(elsewhere)

    @every_kind
    def test_without_a_loop_it_is_the_same(self, flags, monkeypatch):
        x = np.where(flags, X, -X)
        expected = jax.vmap(jax.vmap(self.run))(flags, x)
        monkeypatch.setattr(jax.lax, "platform_dependent", lambda default, **_: default())
        for name, value in jax.vmap(jax.vmap(self.run))(flags, x).items():
            np.testing.assert_array_equal(value, expected[name])

    def test_derivatives_are_forward_only(self):
        def square(x):
            return fused_if(x > 0, lambda old: (old * x, None), x)[0]

        slopes = jax.vmap(jax.jacfwd(square))(jnp.array([-1.0, 2.0, 3.0]))
        np.testing.assert_array_equal(slopes, [1, 4, 6])
        with pytest.raises(ValueError, match="while_loop"):
            jax.grad(square)(2.0)
