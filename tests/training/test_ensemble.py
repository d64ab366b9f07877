"""`fit_members` against single runs, and `ensemble_predict` against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trials import assert_close, member

import cs231n_optax as co

N, D, K, M = 23, 3, 4, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
DATA = {"x": X, "y": RNG.integers(K, size=N)}
KEY = jax.random.key(3)
TX = co.momentum(0.05)
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def init(key):
    return {"w": jax.random.normal(key, (D, K)), "b": jnp.zeros(K)}


def apply(params, x):
    return x @ params["w"] + params["b"]


def loss(params, batch):
    log = jax.nn.log_softmax(apply(params, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(log, batch["y"][:, None], axis=1))


fit_members = functools.partial(
    co.fit_members, loss, init, TX, DATA, num_members=M, steps=12, key=KEY
)
MEMBERS = {
    "w": RNG.standard_normal((M, D, K)).astype(np.float32),
    "b": RNG.standard_normal((M, K)).astype(np.float32),
}


def identity(outputs):
    return outputs


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_mean(members=MEMBERS, weights=None, link=softmax):
    members = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), members)
    outputs = [link(X @ w + b) for w, b in zip(members["w"], members["b"], strict=True)]
    return np.average(outputs, axis=0, weights=weights)


@pytest.fixture(scope="module")
def trained():
    return fit_members(
        averaging=optax.chain(co.polyak_average(0.9), co.snapshots(2, every=6)),
        evaluate=lambda params: params["b"],
    )


class TestMembers:
    def test_each_is_a_fit_by_itself(self):
        @jax.jit
        def alone(i):
            init_key, batch_key = jax.random.split(jax.random.fold_in(KEY, i))
            return co.fit(loss, init(init_key), TX, DATA, steps=12, batch_size=5, key=batch_key)

        together = fit_members(batch_size=5)
        for i in range(M):
            result, ours = alone(i), member((together.params, together.history.loss), i)
            assert_close(ours, (result.params, result.history.loss), **ROUNDING)

    def test_they_differ_in_start_and_in_order(self):
        def number_of_the_example(params, batch):
            return batch[0] + 0 * params.sum()

        result = co.fit_members(
            number_of_the_example,
            lambda key: jax.random.normal(key, (2,)),
            co.sgd(0.0),
            jnp.arange(8.0),
            num_members=M,
            steps=8,
            batch_size=1,
            key=KEY,
        )
        starts, orders = np.asarray(result.params), np.asarray(result.history.loss)
        assert len({tuple(row) for row in starts}) == M
        assert len({tuple(row) for row in orders}) == M
        np.testing.assert_array_equal(np.sort(orders), np.tile(np.arange(8.0), (M, 1)))

    def test_with_keys_model_states_and_aux(self):
        def noisy(params, batch, *, key, model_state):
            noise = jax.random.normal(key, batch["x"].shape)
            value = loss(params, batch | {"x": batch["x"] + 0.1 * noise})
            return value, (model_state + batch["x"].mean(0), jax.random.key_data(key))

        options = {"needs_key": True, "model_state": jnp.zeros(D), "has_aux": True}

        @jax.jit
        def alone(i):
            init_key, batch_key = jax.random.split(jax.random.fold_in(KEY, i))
            return co.fit(
                noisy, init(init_key), TX, DATA, steps=12, batch_size=5, key=batch_key, **options
            )

        together = co.fit_members(
            noisy, init, TX, DATA, num_members=M, steps=12, batch_size=5, key=KEY, **options
        )
        for i in range(M):
            result, ours = alone(i), member((together.params, together.model_state), i)
            assert_close(ours, (result.params, result.model_state), **ROUNDING)
            np.testing.assert_array_equal(together.history.aux[i], result.history.aux)
        assert (
            len({tuple(row) for row in np.asarray(together.history.aux).reshape(-1, 2)}) == 12 * M
        )

    @pytest.mark.parametrize(
        ("num_members", "at_once"),
        [(M, 1), (M + 1, 2)],
        ids=["one by one", "more of them, two by two"],
    )
    def test_member_depends_on_no_other_member(self, trained, num_members, at_once):
        result = fit_members(num_members=num_members, members_at_once=at_once)
        first = member((result.params, result.history.loss), slice(M))
        assert_close(first, (trained.params, trained.history.loss), **ROUNDING)

    @pytest.mark.parametrize("at_once", [None, 1])
    def test_the_loss_is_traced_once_for_any_number_of_members(self, at_once):
        traces = []

        def counted(params, batch):
            traces.append(1)
            return loss(params, batch)

        def train():
            return co.fit_members(
                counted,
                init,
                TX,
                DATA,
                num_members=6,
                steps=4,
                batch_size=5,
                key=KEY,
                members_at_once=at_once,
                chunk_size=2,
            )

        assert jax.eval_shape(train).params["w"].shape == (6, D, K)
        assert len(traces) == 1

    def test_under_jit_and_over_keys(self, trained):
        keys = jnp.stack([KEY, jax.random.key(4)])
        params = jax.jit(jax.vmap(lambda key: fit_members(key=key).params))(keys)
        assert_close(member(params, 0), trained.params, **ROUNDING)
        assert np.abs(params["w"][1] - params["w"][0]).max() > 0.1

    def test_evaluate_is_recorded_for_each(self, trained):
        assert trained.history.evaluation.shape == (M, 1, K)
        np.testing.assert_array_equal(trained.history.evaluation[:, -1], trained.params["b"])

    def test_a_diverging_member_is_left_out_by_its_weight(self, trained):
        """The loss of the second is infinite at once, for its starting point is marked."""
        second, _ = jax.random.split(jax.random.fold_in(KEY, 1))

        def marked(key):
            mark = jnp.all(jax.random.key_data(key) == jax.random.key_data(second))
            return init(key) | {"mark": jnp.where(mark, 3e37, 0.0)}

        def fragile(params, batch):
            return loss(params, batch) + params["mark"] ** 2

        result = co.fit_members(fragile, marked, TX, DATA, num_members=M, steps=12, key=KEY)
        np.testing.assert_array_equal(result.state.nonfinite_step, [-1, 0, -1])
        finished = result.state.nonfinite_step < 0
        params = {name: result.params[name] for name in ("w", "b")}
        rest = np.array([0, 2])
        assert_close(member(params, rest), member(trained.params, rest), **ROUNDING)

        broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), params)
        mean = co.ensemble_predict(apply, broken, X, weights=finished)
        np.testing.assert_allclose(mean, numpy_mean(member(trained.params, rest)), rtol=1e-4)


class TestPredict:
    @pytest.mark.parametrize("batch_size", [None, 1, 5, 100])
    def test_mean_of_the_probabilities(self, batch_size):
        mean = co.ensemble_predict(apply, MEMBERS, X, batch_size=batch_size)
        assert mean.dtype == jnp.float32
        np.testing.assert_allclose(mean, numpy_mean(), rtol=1e-5)
        np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-6)

    def test_link(self):
        mean = co.ensemble_predict(apply, MEMBERS, X, link=identity, batch_size=5)
        np.testing.assert_allclose(mean, numpy_mean(link=identity), rtol=1e-5, atol=1e-6)

    def test_outputs_of_any_rank_from_a_tree_of_inputs(self):
        def norm(params, x):
            return jnp.sum(apply(params, x["left"]) * x["right"][:, None], axis=1)

        x = {"left": X, "right": X[:, 0]}
        mean = co.ensemble_predict(norm, MEMBERS, x, link=identity, batch_size=10)
        assert mean.shape == (N,)
        logits = numpy_mean(link=identity)
        np.testing.assert_allclose(mean, logits.sum(1) * X[:, 0], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [2.0, 0.0, 1.0], [1, 2, 3]])
    def test_weights_need_not_sum_to_one(self, weights):
        mean = co.ensemble_predict(apply, MEMBERS, X, weights=weights)
        np.testing.assert_allclose(mean, numpy_mean(weights=weights), rtol=1e-5)

    @pytest.mark.parametrize("mask", [np.array([True, False, True]), jnp.array([1.0, 0.0, 1.0])])
    def test_a_weight_of_zero_hides_nan(self, mask):
        broken = jax.tree.map(lambda leaf: jnp.asarray(leaf).at[1].set(jnp.nan), MEMBERS)
        mean = co.ensemble_predict(apply, broken, X, weights=mask)
        np.testing.assert_allclose(mean, numpy_mean(weights=[1, 0, 1]), rtol=1e-5)
        assert np.isnan(co.ensemble_predict(apply, broken, X)).all()

    def test_one_member_is_that_model(self):
        one = member(MEMBERS, slice(1))
        mean = co.ensemble_predict(apply, one, X)
        np.testing.assert_allclose(mean, jax.nn.softmax(apply(member(MEMBERS, 0), X)), rtol=1e-6)

    def test_under_jit_and_vmap(self):
        predict = functools.partial(co.ensemble_predict, apply, batch_size=5)
        np.testing.assert_allclose(
            jax.jit(lambda members, x: predict(members, x))(MEMBERS, X), numpy_mean(), rtol=1e-5
        )
        weights = jnp.array([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        means = jax.vmap(lambda w: predict(MEMBERS, X, weights=w))(weights)
        for mean, w in zip(means, weights, strict=True):
            np.testing.assert_allclose(mean, numpy_mean(weights=w), rtol=1e-5)

    def test_gradient_passes(self):
        def total(members):
            return co.ensemble_predict(apply, members, X, batch_size=5)[:, 0].sum()

        def stacked(members):
            return jax.vmap(lambda p: jax.nn.softmax(apply(p, X)))(members).mean(0)[:, 0].sum()

        members = jax.tree.map(jnp.asarray, MEMBERS)
        ours, plain = jax.jit(
            lambda members: (jax.grad(total)(members), jax.grad(stacked)(members))
        )(members)
        assert_close(ours, plain, rtol=1e-4, atol=1e-6)

    def test_bfloat16_is_averaged_in_float32(self):
        """With a link of ones that bfloat16 can't add up: 300 members of 1 give 1, not 0.85."""
        narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), MEMBERS)
        x = jnp.asarray(X, jnp.bfloat16)
        mean = co.ensemble_predict(apply, narrow, x)
        assert mean.dtype == jnp.float32
        np.testing.assert_allclose(mean, numpy_mean(), atol=0.02)
        many = jnp.ones((300, 1), jnp.bfloat16)
        ones = co.ensemble_predict(lambda p, x: x * p, many, x[:, :1] * 0 + 1, link=identity)
        np.testing.assert_allclose(ones, 1, rtol=1e-5)

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"stacked_params": member(MEMBERS, slice(0))}, "members"),
            ({"stacked_params": {"w": 1.0}}, "members"),
            ({"weights": 1.0}, "weights"),
            ({"x": {"left": X, "right": X[:4]}}, "examples"),
        ],
        ids=["no member", "a number", "one weight", "ragged examples"],
    )
    def test_bad_arguments_are_named(self, wrong, named):
        arguments = {"stacked_params": MEMBERS, "x": X} | wrong
        with pytest.raises(ValueError, match=named):
            co.ensemble_predict(apply, **arguments)

    def test_memory_is_that_of_one_member_on_one_batch(self):
        """Hidden layers of 256 for each example: all members at once would hold them all."""
        examples, hidden, size = 512, 256, 32

        def wide(params, x):
            return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]

        def temporary(predict, num_members):
            shapes = {"a": (D, hidden), "b": (hidden, hidden), "c": (hidden, K)}
            members = {
                name: jax.ShapeDtypeStruct((num_members, *shape), jnp.float32)
                for name, shape in shapes.items()
            }
            x = jax.ShapeDtypeStruct((examples, D), jnp.float32)
            program = jax.jit(predict).lower(members, x).compile()
            return program.memory_analysis().temp_size_in_bytes

        def batched(members, x):
            return co.ensemble_predict(wide, members, x, batch_size=size)

        def at_once(members, x):
            return jax.vmap(lambda p: jax.nn.softmax(wide(p, x)))(members).mean(0)

        few, many = temporary(batched, 4), temporary(batched, 16)
        assert many < 1.1 * few
        assert many < temporary(at_once, 16) / 10


class TestOfOneRun:
    def test_snapshots_that_have_been_taken(self):
        averaging = co.snapshots(M, every=4)
        tx = co.momentum(co.cyclic_cosine(0.1, 4))
        result = co.fit(loss, init(KEY), tx, DATA, steps=8, averaging=averaging)
        members, filled = co.snapshot_params(result.state), co.snapshots_filled(result.state)
        np.testing.assert_array_equal(filled, [True, True, False])
        mean = co.ensemble_predict(apply, members, X, weights=filled, batch_size=5)
        np.testing.assert_allclose(mean, numpy_mean(members, [1, 1, 0]), rtol=1e-5)
        assert_close(member(members, 1), result.params, rtol=1e-6)

    def test_the_snapshots_of_all_members(self, trained):
        members, filled = co.snapshot_params(trained.state), co.snapshots_filled(trained.state)
        assert members["w"].shape == (M, 2, D, K)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), members)
        mean = co.ensemble_predict(apply, flat, X, weights=filled.reshape(-1))
        np.testing.assert_allclose(mean, numpy_mean(flat), rtol=1e-5)

    def test_averaged_points(self, trained):
        points = co.averaged_params(trained.state)
        np.testing.assert_allclose(
            co.ensemble_predict(apply, points, X), numpy_mean(points), rtol=1e-5
        )
        first = member(points, 0)
        alone = co.ensemble_predict(apply, jax.tree.map(lambda leaf: leaf[None], first), X)
        np.testing.assert_allclose(alone, jax.nn.softmax(apply(first, X)), rtol=1e-6)
