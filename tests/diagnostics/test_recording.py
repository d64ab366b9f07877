"""The callback that records diagnostics during training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax


def loss(x, batch):
    return jnp.mean(batch) * jnp.sum(jnp.array([1.0, 3.0]) * x**4) / 12


def run(callback, **options):
    return cs231n_optax.fit(
        loss, jnp.ones(2), cs231n_optax.sgd(0.1), jnp.ones(4), callback=callback, **options
    )


@pytest.mark.parametrize(
    ("num_steps", "chunk_size", "steps", "expected"),
    [(10, 10, 30, [10, 20, 30]), (10, 4, 30, [12, 20, 30]), (7, 5, 20, [10, 15])],
)
def test_steps(num_steps, chunk_size, steps, expected):
    records = []
    run(cs231n_optax.record_every(num_steps, jnp.sum, records), steps=steps, chunk_size=chunk_size)
    assert [step for step, _ in records] == expected


def test_records_are_of_the_parameters_then():
    """The Hessian of Σ cᵢ xᵢ⁴ / 12 is diag(cᵢ xᵢ²)."""
    records, params = [], []

    def diagnose(x):
        params.append("traced")
        return cs231n_optax.extreme_eigenvalues(loss, x, jnp.ones(4), key=jax.random.key(0)), x

    run(cs231n_optax.record_every(5, diagnose, records), steps=20, chunk_size=5)
    assert params == ["traced"]  # compiled once
    for _, (found, x) in records:
        dense = np.sort(np.array([1.0, 3.0]) * x**2)
        np.testing.assert_allclose([found.smallest, found.largest], dense, rtol=1e-4)
    assert records[-1][1][0].largest < records[0][1][0].largest


def test_it_does_not_change_the_run():
    records = []
    with_it = run(cs231n_optax.record_every(5, jnp.sum, records), steps=20, chunk_size=5)
    without = run(None, steps=20, chunk_size=5)
    np.testing.assert_array_equal(with_it.params, without.params)


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_steps"):
        cs231n_optax.record_every(0, jnp.sum, [])
    with pytest.raises(TypeError, match="diagnose"):
        cs231n_optax.record_every(1, None, [])
    with pytest.raises(TypeError, match="records"):
        cs231n_optax.record_every(1, jnp.sum, ())
