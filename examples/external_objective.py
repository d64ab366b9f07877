"""L-BFGS on objectives that JAX can't trace: a SciPy simulator with its adjoint, a PyTorch net.

An update of `cs231n_optax.lbfgs` takes the value and the gradient at the current parameters, two
arrays that any program may have computed. The L-BFGS of Optax and of Optimistix evaluate the
objective inside a compiled line search, so theirs must be traceable by JAX, or be wrapped in
``jax.pure_callback`` with its own derivative.

    python examples/external_objective.py
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
from scipy.sparse import diags_array
from scipy.sparse.linalg import splu
from sklearn.datasets import make_moons

import cs231n_optax


def minimize(fun, x0, *, tol):
    """L-BFGS on ``fun(x) -> value, gradient`` in NumPy; the solution and the evaluations."""
    tx = cs231n_optax.lbfgs()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, value, grads):
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params = jnp.array(x0)
    state = tx.init(params)
    num_evals, ended = 0, False
    while not ended:
        value, grads = fun(np.array(params))  # a copy: the step overwrites the parameters
        params, state = step(params, state, value, grads)
        num_evals += 1
        converged = cs231n_optax.accepted(state) and np.max(np.abs(grads)) <= tol
        ended = converged or cs231n_optax.status(state) != cs231n_optax.Status.RUNNING
    return np.array(cs231n_optax.accepted_params(state)), num_evals


# Two spills into a river: c_t + u c_x = D c_xx. Three gauges downstream measure the concentration c
# for five hours. The unknown is c along the river at the first reading. Central differences in
# space, implicit Euler in time: each step solves A c⁺ = c.

CELLS = np.arange(0.02, 12, 0.04)  # km
STEPS = 150  # of two minutes
GAUGES = np.searchsorted(CELLS, [4.0, 7.0, 9.5])
NOISE = 0.02  # the standard deviation of a reading
PENALTY = 50.0  # of squared differences between neighbouring cells

FLOW = 1.8 * (5 / STEPS) / (2 * 0.04)  # u = 1.8 km/h
SPREAD = 0.05 * (5 / STEPS) / 0.04**2  # D = 0.05 km²/h
A = diags_array(
    [-FLOW - SPREAD, 1 + 2 * SPREAD, FLOW - SPREAD], offsets=[-1, 0, 1], shape=(300, 300)
)
LU = splu(A.tocsc())


def simulate(c):
    """The readings of the gauges after each step, from the initial concentration c."""
    readings = []
    for _ in range(STEPS):
        c = LU.solve(c)
        readings.append(c[GAUGES])
    return np.array(readings)


def adjoint(readings):
    """The transpose of the linear map `simulate`: its transposed steps in reverse order."""
    c = np.zeros_like(CELLS)
    for reading in readings[::-1]:
        c[GAUGES] += reading
        c = LU.solve(c, trans="T")
    return c


def misfit(readings, c):
    """Half the squared residuals plus a penalty on the roughness of c; and the gradient."""
    residuals, jumps = (simulate(c) - readings) / NOISE, np.diff(c)
    value = 0.5 * np.sum(residuals**2) + 0.5 * PENALTY * np.sum(jumps**2)
    return value, adjoint(residuals) / NOISE - PENALTY * np.diff(jumps, prepend=0, append=0)


def torch_objective(net, loss):
    """``fun(x) -> value, gradient`` of a PyTorch module's flat parameters; and their values."""
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    def fun(x):
        vector_to_parameters(torch.from_numpy(x), net.parameters())
        value = loss(net)
        grads = torch.autograd.grad(value, list(net.parameters()))
        return value.item(), parameters_to_vector(grads).numpy()

    return fun, parameters_to_vector(net.parameters()).detach().numpy()


def train_in_torch():
    """Train a small network on two interleaved half circles."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    x, labels = map(torch.from_numpy, make_moons(300, noise=0.1, random_state=0))
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    def loss(net):
        decay = 1e-4 * sum((p**2).sum() for p in net.parameters())
        return nn.functional.cross_entropy(net(x), labels) + decay

    fun, x0 = torch_objective(net, loss)
    solution, num_evals = minimize(fun, x0, tol=1e-5)
    value, gradient = fun(solution)
    print(f"PyTorch: loss {value:.6f}, {num_evals} evaluations,", end=" ")
    print(f"largest element of the gradient {np.max(np.abs(gradient)):.0e}")


def main(rtol=1e-6):
    """Locate the spills by this L-BFGS and by SciPy's; then train in PyTorch."""
    truth = 0.6 * ((CELLS > 0.8) & (CELLS < 1.6)) + np.exp(-8 * (CELLS - 2.8) ** 2)
    rng = np.random.default_rng(0)
    readings = simulate(truth) + NOISE * rng.standard_normal((STEPS, len(GAUGES)))
    fun = functools.partial(misfit, readings)

    d = 1e-3 * rng.standard_normal(truth.shape)
    slope = (fun(truth + d)[0] - fun(truth - d)[0]) / 2
    print(f"adjoint against a central difference: {fun(truth)[1] @ d:.9g}, {slope:.9g}")

    x0 = np.zeros_like(CELLS)
    tol = rtol * np.max(np.abs(fun(x0)[1]))
    with jax.enable_x64(True):
        solution, num_evals = minimize(fun, x0, tol=tol)
    value = fun(solution)[0]
    options = {"gtol": tol, "ftol": 0, "maxcor": 15, "maxiter": 9999, "maxfun": 9999}
    scipys = scipy.optimize.minimize(fun, x0, jac=True, method="L-BFGS-B", options=options)
    print(f"L-BFGS here:      {num_evals} evaluations, misfit {value:.6f}")
    print(f"SciPy's L-BFGS-B: {scipys.nfev} evaluations, misfit {scipys.fun:.6f}")

    if importlib.util.find_spec("torch") is None:
        print("PyTorch: not installed")
    else:
        with jax.enable_x64(True):
            train_in_torch()
    return {"readings": readings, "solution": solution, "value": value, "scipys": scipys}


if __name__ == "__main__":
    main()
