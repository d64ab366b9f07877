"""The learning rate range test where the best rate along a step is known in closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co

CURVATURES = jnp.geomspace(0.05, 5.0, 20)
X = jnp.sin(1.0 + jnp.arange(20)) + 0.1  # no zero in it
DATA = jnp.zeros((1, 20))


def quadratic(x, batch, scale=1.0):
    """½ x·H x, and what the batch adds: a linear term, of mean zero."""
    return scale * (jnp.sum(CURVATURES * x**2) / 2 + jnp.mean(batch @ x))


def along(direction, grads):
    """The rate at which the decrease along a direction is half of the predicted one, exactly."""
    return np.sum(grads * direction) / np.sum(np.asarray(CURVATURES) * direction**2)


def range_test(make=co.sgd, *, loss=quadratic, params=X, data=DATA, **options):
    return jax.jit(lambda: co.learning_rate_range_test(loss, params, make, data, **options))()


GRADS = np.asarray(CURVATURES * X)


@pytest.mark.parametrize("num_rates", [24, 70, 210])
def test_gradient_descent(num_rates):
    """The minimum along the gradient, to the spacing of the rates; a factor of 3 from 1 / L."""
    found = range_test(num_rates=num_rates)
    exact, spacing = along(GRADS, GRADS), 1e7 ** (1 / (num_rates - 1))
    assert found.found
    assert exact / spacing**1.5 < found.suggested < exact * spacing**1.5
    assert 1 / 3 < found.suggested * 5.0 < 3
    assert found.num_evals == 2 * num_rates


@pytest.mark.parametrize(
    ("make", "direction"),
    [
        (co.adam, np.sign(GRADS)),
        (functools.partial(co.adam, bias_correction=False), np.sign(GRADS)),
        (co.momentum, GRADS / (1 - 0.9)),
        (co.rmsprop, np.sign(GRADS)),
    ],
    ids=["adam", "adam_uncorrected", "momentum", "rmsprop"],
)
def test_within_a_decade(make, direction):
    """Of the minimum along the direction that the method has for a constant gradient."""
    found = range_test(make)
    exact = along(direction, GRADS)
    assert found.found
    assert exact / 10 < found.suggested < exact * 10


def test_the_curve():
    """Of a quadratic the ratio is 1 - α / (2 α*), and -1 at worst."""
    found = range_test(loss=lambda x, batch: quadratic(x, batch) + 1.0)
    expected = np.maximum(1 - found.rates / (2 * along(GRADS, GRADS)), -1)
    np.testing.assert_allclose(found.ratios, expected, atol=0.02)
    np.testing.assert_allclose(found.losses, quadratic(X, DATA) + 1)
    np.testing.assert_allclose(found.rates, np.geomspace(1e-6, 10, 80), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 10.0, 1e4])
def test_scales(scale):
    """Of the loss, and of the parameters: gradient descent's best rate goes with them."""
    options = {"lowest": 1e-9, "highest": 1e9, "num_rates": 180}
    one = range_test(**options).suggested

    def scaled(x, batch):
        return quadratic(x, batch, scale)

    def stretched(x, batch):
        return quadratic(x / scale, batch / scale)

    np.testing.assert_allclose(range_test(loss=scaled, **options).suggested * scale, one, rtol=0.3)
    wide = range_test(loss=stretched, params=scale * X, **options).suggested
    np.testing.assert_allclose(wide / scale**2, one, rtol=0.3)
    adams = range_test(co.adam, **options).suggested
    np.testing.assert_allclose(
        range_test(functools.partial(co.adam, eps=1e-20), loss=scaled, **options).suggested,
        adams,
        rtol=0.3,
    )


@pytest.mark.parametrize("make", [co.sgd, co.momentum, co.adam])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_noise(make, batch_size):
    """With gradients of which most is noise: the same order of magnitude, from every key."""
    data = 5 * jnp.asarray(np.random.default_rng(0).normal(size=(256, 20)), jnp.float32)

    @jax.jit
    @jax.vmap
    def suggested(key):
        return co.learning_rate_range_test(
            quadratic, X, make, data, key=key, batch_size=batch_size
        ).suggested

    clear = range_test(make).suggested
    noisy = suggested(jax.random.split(jax.random.key(1), 20))
    assert np.all((clear / 10 < noisy) & (noisy < 10 * clear))


def test_traced():
    """As lanes of a vmap, over the range and the parameters, it gives what it gives alone."""

    def run(lowest, highest, params):
        return co.learning_rate_range_test(
            quadratic, params, co.adam, DATA, lowest=lowest, highest=highest, num_rates=30
        )

    lows, highs = jnp.array([1e-5, 1e-3]), jnp.array([1.0, 30.0])
    params = jnp.stack([X, 2 * X])
    lanes = jax.jit(jax.vmap(run))(lows, highs, params)
    for i in range(2):
        alone = jax.jit(run)(float(lows[i]), float(highs[i]), params[i])
        jax.tree.map(
            lambda lane, one, i=i: np.testing.assert_allclose(lane[i], one, rtol=1e-4), lanes, alone
        )


def test_an_end_of_the_range_is_not_found():
    low = range_test(highest=1e-4)
    assert not low.found
    np.testing.assert_allclose(low.suggested, 1e-4, rtol=1e-5)
    high = range_test(lowest=5.0, highest=50.0)
    assert not high.found
    np.testing.assert_allclose(high.suggested, 5.0, rtol=1e-5)


def test_what_is_not_finite():
    """A loss that is infinite beyond a wall, at once or after some rates; a flat one."""
    for wall, found in ((0.5, True), (1e9, True), (-1.0, False)):

        def walled(x, batch, wall=wall):
            is_in = jnp.sum((x - X) ** 2) < jnp.float32(wall) ** 2 * jnp.sign(wall)
            return jnp.where(is_in, quadratic(x, batch), jnp.inf)

        result = range_test(loss=walled, highest=1e20, num_rates=200)
        assert result.found == found
        assert np.isfinite(result.ratios).all()
    flat = range_test(loss=lambda x, batch: 0.0 * jnp.sum(x))
    assert not flat.found


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_dtypes(dtype):
    def loss(x, batch):
        return jnp.sum(CURVATURES.astype(jnp.float32) * jnp.abs(x) ** 2) / 2

    found = range_test(loss=loss, params=X.astype(dtype))
    assert found.found
    assert 0.5 < found.suggested / along(GRADS, GRADS) < 2


def test_schedules_and_chains():
    """``make_tx`` may make any method that takes a rate."""

    def make(rate):
        return optax.chain(optax.clip_by_global_norm(1e9), co.sgd(co.step_decay(rate, every=1000)))

    np.testing.assert_allclose(range_test(make).suggested, range_test().suggested, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"lowest": 0.0}, ValueError, "lowest"),
        ({"highest": jnp.nan}, ValueError, "highest"),
        ({"lowest": 1.0, "highest": 0.1}, ValueError, "lowest must be less than highest"),
        ({"num_rates": 4}, ValueError, "num_rates"),
        ({"num_rates": 9.0}, TypeError, "num_rates"),
        ({"batch_size": 2}, ValueError, "batch_size"),
        ({"batch_size": 1}, ValueError, "key"),
        ({"batch_size": 1, "key": 3}, TypeError, "key"),
        ({"make": lambda rate: co.lbfgs()}, ValueError, "make_tx"),
        ({"make": lambda rate: rate}, TypeError, "make_tx"),
        ({"make": co.sgd(0.1)}, TypeError, "make_tx"),
        ({"loss": 3}, TypeError, "loss"),
        ({"loss": lambda x, batch: x}, TypeError, "loss"),
        ({"params": jnp.arange(20)}, TypeError, "parameter"),
        ({"data": {}}, TypeError, "data"),
    ],
)
def test_errors(options, error, named):
    with pytest.raises(error, match=named):
        range_test(**options)
