import jax
import numpy as np
import pytest

import cs231n_optax as co

nnx = pytest.importorskip("flax.nnx", reason="needs pip install -e '.[examples]'")

X = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
Y = np.arange(40, dtype=np.int32) % 10


def test_both_ways_learn_the_digits(example):
    batches, full, loss = example.main(epochs=10, max_evals=60)
    assert batches > 0.9
    assert full > 0.9
    assert loss < 0.2


def test_lbfgs_is_the_one_of_minimize(example):
    """``nnx.Optimizer`` with ``value=`` takes the path of the library's own loop."""
    _, loss, num_evals = example.with_lbfgs(X, Y, max_evals=20)
    assert num_evals == 20
    model = example.Perceptron(nnx.Rngs(0))
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def objective(params):
        return example.loss_fn(nnx.merge(graphdef, params, rest), X, Y)

    result = jax.jit(
        lambda params: co.minimize(objective, params, co.lbfgs(), tol=0.0, max_evals=20)
    )(params)
    assert loss == pytest.approx(float(result.value), rel=1e-4)
    assert loss < 0.5 * float(objective(params))
