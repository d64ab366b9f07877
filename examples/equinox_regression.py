"""A regression with Equinox: the same filtered step under Adam and under L-BFGS.

    pip install -e '.[examples]'
    python examples/equinox_regression.py

An Equinox model is a tree of arrays and other objects (functions, sizes). It is partitioned into
the arrays to train and the rest, which here includes the fixed frequencies of the first layer. The
transformation sees the trained part only; the ``None`` that Equinox leaves in place of the rest is
an empty tree.

One step serves both methods: a method that does not need ``value=`` ignores it. The parameters in
the loop of L-BFGS may be a trial that its line search will reject; ``accepted_params`` is the
solution.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

import cs231n_optax


class FourierNetwork(eqx.Module):
    """Random Fourier features of a scalar, then a small perceptron."""

    frequencies: jax.Array
    perceptron: eqx.nn.MLP

    def __init__(self, key):
        frequency_key, perceptron_key = jax.random.split(key)
        self.frequencies = 4 * jax.random.normal(frequency_key, (8,))
        self.perceptron = eqx.nn.MLP(16, "scalar", 16, 1, jax.nn.tanh, key=perceptron_key)

    def __call__(self, x):
        angles = self.frequencies * x
        return self.perceptron(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]))


def split(model):
    """Partition into the part to train and the rest."""
    trainable = jax.tree.map(eqx.is_inexact_array, model)
    trainable = eqx.tree_at(lambda model: model.frequencies, trainable, replace=False)
    return eqx.partition(model, trainable)


def loss_fn(params, rest, x, y):
    """Mean squared error."""
    return jnp.mean((jax.vmap(eqx.combine(params, rest))(x) - y) ** 2)


@eqx.filter_jit(donate="all-except-first")
def train_step(fixed, params, opt_state):
    """One update on all of the data."""
    tx, rest, x, y = fixed
    loss, grads = eqx.filter_value_and_grad(loss_fn)(params, rest, x, y)
    updates, opt_state = tx.update(grads, opt_state, params, value=loss)
    return eqx.apply_updates(params, updates), opt_state, loss


def train(tx, x, y, *, steps):
    """Train; return the parameters, the optimiser's state and the rest of the model."""
    params, rest = split(FourierNetwork(jax.random.key(0)))
    opt_state = tx.init(params)
    for _ in range(steps):
        params, opt_state, _ = train_step((tx, rest, x, y), params, opt_state)
    return params, opt_state, rest


def main(steps=300):
    """Fit a chirp by both methods, with one evaluation of the loss per step; print the losses."""
    x = jnp.linspace(-1, 1, 200)
    y = jnp.sin(8 * x**2) + 0.02 * jax.random.normal(jax.random.key(1), x.shape)

    params, _, rest = train(cs231n_optax.adam(1e-2), x, y, steps=steps)
    adam = float(loss_fn(params, rest, x, y))
    print(f"adam:  loss {adam:.6f} after {steps} evaluations")

    _, opt_state, rest = train(cs231n_optax.lbfgs(), x, y, steps=steps)
    lbfgs = float(loss_fn(cs231n_optax.accepted_params(opt_state), rest, x, y))
    print(f"lbfgs: loss {lbfgs:.6f} after {steps} evaluations")
    return adam, lbfgs


if __name__ == "__main__":
    main()
