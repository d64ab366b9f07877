"""How noisy the gradients of a workload are, half-way through a run of Adam."""

import jax
import jax.numpy as jnp
import optax

import cs231n_optax
from cs231n_optax.experiments.minibatch.experiment import FIRST_TRIAL, Size
from cs231n_optax.experiments.minibatch.workloads import Workload
from cs231n_optax.training.fit import fit

BATCH_SIZES = 32, 1024  # from which the noise is estimated
SEEDS = 4


def noise_scale(workload: Workload, batch_size: int, rate: float, size: Size) -> float:
    """The noise scale tr Σ / ‖G‖², see `gradient_noise`: means over seeds that do not count."""

    @jax.jit
    @jax.vmap
    def run(seed: jax.Array) -> cs231n_optax.GradientNoise:
        init_key, key, noise_key = jax.random.split(jax.random.key(seed), 3)
        params = fit(
            workload.loss,
            workload.init(init_key),
            cs231n_optax.adam(optax.cosine_decay_schedule(rate, size.evaluations)),
            workload.train,
            steps=size.evaluations // 2,
            batch_size=batch_size,
            key=key,
        ).params
        return cs231n_optax.gradient_noise(
            workload.loss, params, workload.train, key=noise_key, batch_sizes=BATCH_SIZES
        )

    noise = run(jnp.arange(FIRST_TRIAL, FIRST_TRIAL + SEEDS, dtype=jnp.uint32))
    return float(jnp.mean(noise.trace) / jnp.maximum(jnp.mean(noise.squared_norm), 0))
