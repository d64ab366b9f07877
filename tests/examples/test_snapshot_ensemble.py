"""The snapshots, and what is made of them, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import cs231n_optax as co

NUM, EVERY, RATE, SEED = 2, 12, 0.2, 3


@pytest.fixture(scope="module")
def trained(example):
    """Two cycles and a part of the third, which has no snapshot yet."""
    return example.train(*example.make_step(NUM, EVERY, RATE), NUM * EVERY + 5, SEED)


def logits(params, x):
    hidden = np.maximum(x @ params["hidden"] + params["bias"], 0)
    return hidden @ params["output"]


def test_each_snapshot_is_the_point_at_the_end_of_its_cycle(example, trained):
    """With v ← 0.9 v + g, x ← x - α v and α = 0.1 (1 + cos(π (t mod 12) / 12))."""

    def loss(params, x, y):
        hidden = jnp.maximum(x @ params["hidden"] + params["bias"], 0)
        log_p = jax.nn.log_softmax(hidden @ params["output"])
        return -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))

    grad = jax.jit(jax.grad(loss))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), example.init(jax.random.key(SEED)))
    velocity = jax.tree.map(np.zeros_like, params)
    rng = np.random.default_rng(SEED)
    ends = []
    for t in range(NUM * EVERY + 5):
        rows = rng.choice(len(example.TRAIN_X), example.BATCH_SIZE, replace=False)
        g = grad(params, example.TRAIN_X[rows], example.TRAIN_Y[rows])
        velocity = jax.tree.map(lambda v, g: 0.9 * v + np.asarray(g, float), velocity, g)
        rate = 0.1 * (1 + np.cos(np.pi * (t % EVERY) / EVERY))
        params = jax.tree.map(lambda x, v, rate=rate: x - rate * v, params, velocity)
        if t + 1 in (EVERY, 2 * EVERY):
            ends.append(params)

    last, state = trained
    snapshots = co.snapshot_params(state)
    for cycle, end in enumerate(ends):
        for name, leaf in end.items():
            np.testing.assert_allclose(snapshots[name][cycle], leaf, atol=2e-5, err_msg=name)
    for name, leaf in params.items():
        np.testing.assert_allclose(last[name], leaf, atol=2e-5, err_msg=name)
        assert np.abs(snapshots[name][0] - snapshots[name][1]).max() > 1e-3


def test_the_ensemble_is_the_mean_of_the_softmax_outputs(example, trained):
    snapshots = co.snapshot_params(trained[1])
    together = co.ensemble_predict(example.apply, snapshots, example.TEST_X)
    members = [jax.tree.map(lambda copies, i=i: np.asarray(copies[i]), snapshots) for i in (0, 1)]
    mean = np.mean([softmax(logits(one, example.TEST_X), axis=1) for one in members], axis=0)
    np.testing.assert_allclose(together, mean, atol=1e-6)


def test_the_scores_are_those_of_the_last_snapshot_and_of_the_mean(example):
    scores = example.main(num=NUM, every=EVERY, seeds=[SEED, SEED + 1])
    snapshots = co.snapshot_params(
        example.train(*example.make_step(NUM, EVERY, RATE), NUM * EVERY, SEED)[1]
    )
    x, y = example.TEST_X, example.TEST_Y
    members = [jax.tree.map(lambda copies, i=i: np.asarray(copies[i]), snapshots) for i in (0, 1)]
    last = log_softmax(logits(members[1], x), axis=1)
    mean = np.log(np.mean([softmax(logits(one, x), axis=1) for one in members], axis=0))
    for name, log_p in (("the last snapshot", last), ("all snapshots", mean)):
        error, cross_entropy = scores[name][0]
        # One image of 360 may fall to the other side by rounding.
        assert error == pytest.approx(np.mean(log_p.argmax(axis=1) != y), abs=1.5 / 360)
        assert cross_entropy == pytest.approx(-log_p[np.arange(len(y)), y].mean(), rel=1e-4)
