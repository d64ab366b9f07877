"""The programs of a GPU, which `jax.export` makes without one.

A conditional or a loop in a compiled GPU program waits for the host. An update of L-BFGS and BFGS
has none, one of `newton` decomposes its Hessian under one, and one of `newton_cg` has one loop.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co

METHODS = {
    "lbfgs": (co.lbfgs, []),
    "lbfgs_tiny_memory": (functools.partial(co.lbfgs, 2), []),
    "bfgs": (co.bfgs, []),
    "gradient_descent": (lambda: co.with_line_search(optax.identity()), []),
    "backtracking": (lambda: co.with_line_search(optax.identity(), co.backtracking()), []),
    "newton": (co.newton, ["case"]),
    "newton_cg": (co.newton_cg, ["while"]),
}
BYTES = {"f32": 4, "i32": 4, "ui32": 4, "i1": 1}


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def exported(tx, n):
    """The module of one step of the ordinary loop, for CUDA."""
    params = jnp.zeros(n)
    state = tx.init(params)

    def step(params, state):
        value, grads = jax.value_and_grad(rosenbrock)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=rosenbrock)
        return optax.apply_updates(params, updates), state

    return jax.export.export(jax.jit(step), platforms=["cuda"])(params, state).mlir_module()


def control_flow(module):
    """The loops and conditionals that XLA can't remove: those that do not depend on constants.

    `jax.lax.platform_dependent` leaves conditionals on the number of the platform.
    """
    constants = set(re.findall(r"(%\w+) = stablehlo\.constant", module))
    found = []
    pattern = r'(%\w+)(?::\d+)? = (?:"stablehlo\.(case|if)"\((%\w+)\)|stablehlo\.(while)\()'
    for name, branch, index, loop in re.findall(pattern, module):
        if index in constants:
            constants.add(name)
        else:
            found.append(branch or loop)
    return found


@pytest.mark.parametrize("n", [2, 1000])
@pytest.mark.parametrize("name", METHODS)
def test_control_flow(name, n):
    make, expected = METHODS[name]
    module = exported(make(), n)
    assert control_flow(module) == expected
    assert "callback" not in module
    assert "f64" not in module  # the parameters are float32
    for shape, kind in re.findall(
        r"stablehlo\.constant dense<\"?[^>]*>\s*:\s*tensor<([\dx]*)(\w+)>", module
    ):
        size = int(np.prod([int(axis) for axis in shape.split("x") if axis]))
        is_splat = size == 1 or re.search(rf"dense<[^\[\"]*> : tensor<{shape}{kind}>", module)
        assert is_splat or size * BYTES[kind] <= 1024


def test_control_flow_is_seen():
    """The parser finds a loop and a conditional that stay, and not one on a constant."""

    def program(x):
        x = jax.lax.while_loop(lambda x: x < 3, lambda x: 2 * x, x)
        x = jax.lax.cond(x > 5, lambda x: -x, lambda x: x, x)
        return jax.lax.platform_dependent(x, cpu=lambda x: x + 1, default=lambda x: x - 1)

    module = jax.export.export(jax.jit(program), platforms=["cuda"])(1.0).mlir_module()
    assert control_flow(module) == ["while", "case"]


@pytest.mark.parametrize("n", [2, 12])
@pytest.mark.parametrize("name", METHODS)
def test_the_program_of_a_gpu_takes_the_same_path(name, n, monkeypatch):
    """Run on CPU, in float64, for single runs and for a batch whose elements end apart."""
    make, _ = METHODS[name]
    starts = np.random.default_rng(0).uniform(-1, 1, (3, n))

    def solve(start):
        result = co.minimize(rosenbrock, start, make(), max_evals=30)
        return result.params, result.num_evals, result.num_steps, result.status

    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(solve))(starts)
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *args, default, **_: default(*args)
        )
        single = jax.jit(solve)(starts[0])
        batch = jax.jit(jax.vmap(solve))(starts)
    for x, y in zip(batch, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)
    for x, y in zip(single, expected, strict=True):
        np.testing.assert_allclose(x, y[0], rtol=1e-6, atol=1e-9)


def test_hessian_by_batches_of_rows_without_a_loop(monkeypatch):
    x = jnp.linspace(-1, 1, 37)
    expected = jax.hessian(rosenbrock)(x)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    for batch_size in (1, 5, 10, 36, 37):
        hessian = co.hessian_matrix(rosenbrock, x, batch_size=batch_size)
        np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-3)
