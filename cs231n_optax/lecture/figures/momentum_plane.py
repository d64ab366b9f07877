"""The α-ρ plane of momentum on a quadratic: how fast it converges (Goh, 2017).

One step of the loop on f(x) = λ x² / 2 is a linear map of (x, v). The error shrinks by its spectral
radius each step. The two eigenvalues are complex below the curve ρ = (1 - √(αλ))² of critical
damping, where their modulus is √ρ, and the run oscillates.

Source: G. Goh, "Why momentum really works", Distill, 2017.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style


class Data(NamedTuple):
    """The rate of convergence at each (ρ, αλ); above 1 the method diverges."""

    alpha: np.ndarray
    rho: np.ndarray
    rate: np.ndarray


def compute() -> Data:
    """The spectral radius of the Jacobian of one step, with respect to x and the state."""
    alpha, rho = np.linspace(0, 4.2, 211), np.linspace(0, 0.999, 161)

    def step(x_and_state, alpha, rho):
        x, state = x_and_state
        updates, state = cs231n_optax.momentum(alpha, rho=rho).update(x, state, x)
        return optax.apply_updates(x, updates), state

    def iteration_matrix(alpha, rho):
        x = jnp.ones(())
        start, unravel = ravel_pytree((x, cs231n_optax.momentum(0.1).init(x)))
        flat = lambda z: ravel_pytree(step(unravel(z), alpha, rho))[0]  # noqa: E731
        return jax.jacfwd(flat)(start)

    over_rho = jax.vmap(iteration_matrix, (None, 0))
    matrices = jax.jit(jax.vmap(over_rho, (0, None)))(alpha, rho)
    return Data(alpha, rho, np.abs(np.linalg.eigvals(matrices)).max(-1).T)


def draw(data: Data) -> Figure:
    """The rate in colour, the best ρ for each α, and the border of divergence."""
    figure, axes = style.new_figure(height=3.6)
    shown = np.where(data.rate < 1, data.rate, np.nan)
    image = axes.pcolormesh(
        data.alpha, data.rho, shown, cmap="viridis", vmin=0, vmax=1, rasterized=True
    )
    axes.contour(data.alpha, data.rho, data.rate, [0.5, 0.7, 0.8, 0.9], colors="w", linewidths=0.6)
    critical = (1 - np.sqrt(data.alpha)) ** 2
    axes.plot(data.alpha, critical, color=style.VERMILION, linewidth=2, label="critical damping")
    axes.plot(data.alpha, data.alpha / 2 - 1, color="black", linewidth=2, label="α λ = 2 (1 + ρ)")
    axes.set(xlim=(0, 4.2), ylim=(0, 1), xlabel="α λ", ylabel="ρ", title="momentum: error per step")
    figure.colorbar(image, ax=axes, label="factor of the error per step")
    style.legend(axes, loc="lower right")
    return figure
