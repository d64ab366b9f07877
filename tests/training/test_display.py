"""What `print` shows of a result, why a run ended, and the documentation of each status."""

import pickle
import pprint
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co
from cs231n_optax import Status

MAX_LINES = 16


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rounded(x):
    """No float32 is the minimum of it."""
    a = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    return jnp.sum((a @ x - np.float32(1 / 3)) ** 2)


def solve(x0, **options):
    return co.minimize(rosenbrock, x0, co.lbfgs(), **options)


def rows(text):
    """The rows of a printed result by name, each in one line."""
    assert len(text.splitlines()) <= MAX_LINES, text
    assert max(map(len, text.splitlines())) <= 88, text
    found, margin = {}, text.index(": ")
    for line in text.splitlines():
        if line[margin:].startswith(": ") and line[margin - 1] != " ":
            name = line[:margin].strip()
            found[name] = line[margin + 2 :]
        else:
            found[name] += " " + line.strip()
    return found


class TestMinimize:
    def test_a_small_result_by_values(self):
        result = solve(jnp.array([-1.2, 1.0]))
        shown = rows(str(result))
        assert shown["success"] == "True"
        assert shown["status"] == "CONVERGED (1)"
        assert shown["message"] == result.message
        for name in ("value", "grad_norm", "tolerance", "num_evals", "num_steps"):
            np.testing.assert_allclose(float(shown[name]), getattr(result, name), rtol=1e-5)
        for name in ("params", "grad"):
            printed = np.array(shown[name].strip("[]").split(), float)
            np.testing.assert_allclose(printed, getattr(result, name), rtol=1e-4)
        assert repr(result) == str(result) == pprint.pformat(result)

    def test_large_arrays_and_trees_by_shape(self):
        params = {"layers": [{"w": jnp.ones((30, 40)), "b": jnp.zeros(2)}] * 9}

        def fun(p):
            return optax.tree.norm(p, squared=True), p["layers"][0]["w"]

        shown = rows(str(co.minimize(fun, params, co.sgd(0.1), max_evals=2, has_aux=True)))
        assert "layers.0.b: [0. 0.]" in shown["params"]
        assert "layers.0.w: float32[30,40]" in shown["params"]
        assert "18 arrays of 10,818 numbers" in shown["params"]
        assert shown["aux"] == "float32[30,40]"

    def test_a_batch(self):
        starts = jnp.array([[-1.2, 1.0], [1.0, 1.0], [jnp.nan, 1.0], [2.0, 2.0]])
        result = jax.vmap(lambda x: solve(x, max_evals=8))(starts)
        np.testing.assert_array_equal(result.success, [False, True, False, False])
        assert result.success.dtype == bool
        expected = "4 runs: 1 CONVERGED; 1 FAILED (run 2); 2 BUDGET (run 0, 3)."
        assert rows(str(result))["message"] == result.message == expected
        many = jax.vmap(jax.vmap(lambda x: solve(x, max_evals=1)))(jnp.ones((20, 30, 2)))
        assert many.message == "600 runs: 600 CONVERGED."
        assert rows(str(many))["params"] == "float32[20,30,2]"

    def test_under_jit(self):
        """Printing shows the shapes; what needs values says what to do instead."""

        @jax.jit
        def traced(x0):
            result = solve(x0)
            assert rows(str(result))["params"] == "float32[2]"
            for name in ("success", "message"):
                with pytest.raises(TypeError, match=r"result\.status == cs231n_optax\.Status"):
                    getattr(result, name)
            return result

        assert traced(jnp.ones(2)).success is True
        assert "params: float32[2]" in str(jax.eval_shape(traced, jnp.ones(2)))

    def test_other_leaves(self):
        result = solve(jnp.ones(2))
        assert "float32[2]" not in str(jax.device_get(result))
        for leaf in (None, "text", jax.random.key(0), lambda: 0):
            assert rows(str(jax.tree.map(lambda _: leaf, result)))  # noqa: B023
        assert rows(str(jax.tree.map(lambda x: 100 * x, result)))
        result.value.delete()
        assert rows(str(result))["value"] == "float32[]"

    def test_is_a_tree_of_the_same_fields(self):
        result = solve(jnp.ones(2))
        assert result._fields[:8] == (
            "params", "value", "grad", "status", "num_evals", "num_steps", "aux", "state"
        )  # fmt: skip
        again = pickle.loads(pickle.dumps(jax.device_get(result)))
        assert str(again) == str(jax.device_get(result))
        assert jax.tree.structure(again) == jax.tree.structure(result)


class TestMessage:
    def test_tells_both_sides_of_the_test(self):
        """The tolerance is 1e-5 · 232.867, the gradient at x0 is (-215.6, -88)."""
        result = solve(jnp.array([-1.2, 1.0]))
        np.testing.assert_allclose(result.tolerance, 1e-5 * 215.6, rtol=1e-5)
        reached, limit = re.search(r"max\|grad\| = (\S+) <= (\S+) = atol", result.message).groups()
        np.testing.assert_allclose(float(reached), result.grad_norm, rtol=1e-5)
        np.testing.assert_allclose(float(limit), result.tolerance, rtol=1e-5)
        assert result.grad_norm == np.max(np.abs(result.grad))

    def test_absolute_tolerance(self):
        result = solve(jnp.array([-1.2, 1.0]), tol=0, atol=1e-3)
        np.testing.assert_allclose(result.tolerance, 1e-3, rtol=1e-6)
        assert "<= 0.001 = atol" in result.message

    @pytest.mark.parametrize(
        ("fun", "x0", "tx", "options", "status", "text"),
        [
            (rosenbrock, [-1.2, 1.0], co.lbfgs(), {"max_evals": 5}, "BUDGET", "All 5 evaluations"),
            (rounded, [3.0, 1.0], co.lbfgs(), {"tol": 0}, "STALLED", "[Rr]ounding"),
            (lambda x: jnp.sum(jnp.log(x)), [-1.0], co.lbfgs(), {}, "FAILED", "x0 is not finite"),
            (lambda x: -jnp.sum(x**4), [1.0], co.sgd(0.1), {}, "FAILED", "no lower bound"),
            (lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 0.0], co.newton(leave_saddles=False), {},
             "SADDLE", "negative"),
            (rosenbrock, [-1.2, 1.0], co.lbfgs(), {"callback": lambda p: True}, "STOPPED",
             "callback"),
        ],
        ids=["budget", "stalled", "start", "unbounded", "saddle", "stopped"],
    )  # fmt: skip
    def test_of_each_status(self, fun, x0, tx, options, status, text):
        result = co.minimize(fun, jnp.array(x0), tx, **options)
        assert Status(int(result.status)).name == status
        assert re.search(text, result.message)
        assert result.success is False

    @pytest.mark.parametrize("status", Status)
    def test_there_is_one_for_every_status(self, status):
        result = solve(jnp.ones(2))._replace(status=jnp.int32(status), num_evals=jnp.int32(7))
        assert len(result.message) > 20
        assert result.success == (status == Status.CONVERGED)
        assert rows(str(result))["status"] == f"{status.name} ({int(status)})"
        if status == Status.UNBOUNDED:
            assert "no lower bound" in result.message


class TestStatus:
    def test_help_explains_every_member(self):
        text = pydoc.render_doc(Status, renderer=pydoc.plaintext)
        for status in Status:
            assert status.__doc__
            assert f"{status.name}: {status.__doc__}" in text
        assert len({status.__doc__ for status in Status}) == len(Status)

    def test_stays_an_integer_of_the_same_value(self):
        values = {
            "RUNNING": 0, "CONVERGED": 1, "STALLED": 2, "FAILED": 3, "BUDGET": 4, "SADDLE": 5,
            "MISPLACED": 6, "UNBOUNDED": 7, "STOPPED": 8,
        }  # fmt: skip
        assert {status.name: status.value for status in Status} == values
        for status in Status:
            assert isinstance(status, int)
            assert Status(int(status)) is pickle.loads(pickle.dumps(status)) is status
            assert Status(int(jnp.int32(status))) is status


def line(steps, **options):
    """A regression of two parameters for so many steps."""
    x = jnp.linspace(-1, 1, 32)

    def loss(params, batch):
        return jnp.mean((params["w"] * batch - params["b"]) ** 2)

    params = {"w": jnp.array(2.0), "b": jnp.array(1.0)}
    options = {"tx": co.momentum(0.05), "batch_size": 8, "key": jax.random.key(0)} | options
    return co.fit(loss, params, data=x, steps=steps, **options)


class TestFit:
    def test_history_by_its_first_and_last_numbers(self):
        result = line(200)
        shown = rows(str(result))
        assert shown["message"] == "200 steps, 200 in all."
        assert shown["params"].startswith(f"b: {float(result.params['b']):.6g}, w: ")
        assert "history.learning_rate" not in shown  # which this state does not hold
        first, last, least = re.search(
            r"\[200\], from (\S+) to (\S+), at least (\S+)", shown["history.loss"]
        ).groups()
        loss = result.history.loss
        numbers = np.array([first, last, least], float)
        np.testing.assert_allclose(numbers, [loss[0], loss[-1], loss.min()], rtol=1e-5)
        assert rows(str(line(3, state=result.state)))["message"] == "3 steps, 203 in all."

    def test_a_search_that_has_ended(self):
        result = line(40, tx=co.lbfgs(tol=1e-5), batch_size=None, key=None)
        shown = re.fullmatch(
            r"40 steps, 40 in all\. The method ended with the status CONVERGED after (\d+) "
            r"evaluations\.",
            rows(str(result))["message"],
        )
        assert 2 < int(shown[1]) < 40

    @pytest.mark.filterwarnings("ignore")
    def test_a_loss_that_is_not_finite(self):
        shown = rows(str(line(400, tx=co.sgd(1e3))))
        assert re.match(r"The loss was not finite at step \d+", shown["message"])
        assert "nan" not in shown["history.loss"]

    def test_batches_and_tracers(self):
        @jax.jit
        @jax.vmap
        def run(rate):
            result = line(20, tx=co.sgd(rate))
            assert rows(str(result))
            return result

        shown = rows(str(run(jnp.array([0.1, 1e20]))))
        assert shown["message"] == "2 runs, 1 of them ended by a loss that is not finite."
        assert "float32[2,20]" in shown["history.loss"]

    def test_further_columns(self):
        result = line(20, chunk_size=5, evaluate=lambda params: {"w": params["w"]})
        assert rows(str(result))["history.evaluation"].startswith("w: [")


class TestSweep:
    def test_columns_by_their_ranges(self):
        grid = {"a": np.linspace(1, 10, 10), "n": [1, 2]}
        result = co.sweep(
            lambda h: {"loss": jnp.log(h["a"] - 2.5), "params": jnp.ones(3) * h["n"]}, grid
        )
        shown = rows(str(result))
        assert shown["hparams.a"] == "float32[20], 1 to 10"
        assert shown["hparams.n"] == "int32[20], 1 to 2"
        assert shown["outputs.params"] == "float32[20,3]"
        least, largest = np.log([0.5, 7.5])
        assert shown["outputs.loss"] == f"float32[20], {least:.6g} to {largest:.6g}, 4 not finite"

    def test_many_columns(self):
        result = co.sweep(lambda h: [h["a"]] * 40, {"a": [1.0]})
        assert "28 more" in str(result)
        assert len(str(result).splitlines()) <= MAX_LINES
