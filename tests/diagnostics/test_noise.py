"""Problem C: the noise of mini-batch gradients where it is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax

pytestmark = pytest.mark.usefixtures("x64")


def loss(x, batch):
    """½ E‖x - a‖²: the gradient of an example is x - a, with the covariance of the a."""
    return jnp.mean(jnp.sum((x["w"] - batch) ** 2, axis=-1)) / 2


def examples(seed=0, n=400, shift=1.0):
    return shift + np.random.default_rng(seed).normal(size=(n, 5)) * np.array([1, 2, 3, 0.1, 0.5])


def estimate(data, seed, **options):
    return jax.jit(
        lambda key: cs231n_optax.gradient_noise(loss, {"w": jnp.zeros(5)}, data, key=key, **options)
    )(jax.random.key(seed))


@pytest.mark.parametrize("batch_sizes", [(1, 2), (4, 64), (8, 400)])
def test_closed_form(batch_sizes):
    data = examples()
    trace, norm = data.var(axis=0).sum(), np.sum(data.mean(axis=0) ** 2)
    found = estimate(data, 1, batch_sizes=batch_sizes, num_repeats=200)
    assert abs(found.trace - trace) < 4 * found.trace_error
    assert abs(found.squared_norm - norm) < 4 * found.squared_norm_error
    assert abs(found.noise_scale - trace / norm) < 4 * found.noise_scale_error
    np.testing.assert_allclose(found.signal_to_noise * found.noise_scale, 1, rtol=1e-12)


def test_unbiased_with_honest_errors():
    """Over 200 keys: the mean is right, and the stated errors are the spread."""
    data = examples()
    keys = jax.random.split(jax.random.key(3), 200)
    found = jax.jit(
        jax.vmap(
            lambda key: cs231n_optax.gradient_noise(
                loss, {"w": jnp.zeros(5)}, data, key=key, batch_sizes=(2, 8), num_repeats=40
            )
        )
    )(keys)
    truths = data.var(axis=0).sum(), np.sum(data.mean(axis=0) ** 2)
    for truth, value, error in zip(
        truths,
        (found.trace, found.squared_norm),
        (found.trace_error, found.squared_norm_error),
        strict=True,
    ):
        spread = np.std(value, ddof=1)
        assert abs(np.mean(value) - truth) < 4 * spread / np.sqrt(len(keys))
        np.testing.assert_allclose(np.sqrt(np.mean(error**2)), spread, rtol=0.15)


def test_no_noise_and_no_signal():
    """Equal examples have no noise; examples around the minimum no signal."""
    still = estimate(np.ones((10, 5)), 0)
    np.testing.assert_allclose([still.trace, still.noise_scale], 0, atol=1e-12)
    lost = estimate(examples(shift=0.0) - examples(shift=0.0).mean(axis=0), 0)
    assert abs(lost.squared_norm) < 4 * lost.squared_norm_error


def test_narrow_parameters_are_summed_in_float32():
    with jax.enable_x64(False):
        data = examples().astype(np.float32)
        found = cs231n_optax.gradient_noise(
            loss, {"w": jnp.zeros(5, jnp.bfloat16)}, data, key=jax.random.key(0)
        )
    assert found.trace.dtype == jnp.float32
    assert abs(found.trace - data.var(axis=0).sum()) < 5 * found.trace_error


def test_bad_arguments():
    data = examples()
    for sizes, error in (((8,), TypeError), ((8, 8), ValueError), ((8, 20), ValueError)):
        with pytest.raises(error, match="batch_sizes"):
            estimate(data, 0, batch_sizes=sizes)
    with pytest.raises(ValueError, match="num_repeats"):
        estimate(data, 0, num_repeats=1)
