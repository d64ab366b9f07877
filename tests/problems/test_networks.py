"""Networks: NumPy and ``lax.conv`` as references, and the shapes and errors that are promised."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cs231n_optax.problems import networks

KEY = jax.random.key(0)


def _numpy_softmax_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


def _lax_cnn(params: networks.Params, x: jax.Array) -> jax.Array:
    """The default `cnn` in XLA's own convolution and window reduction."""
    for i in (1, 2):
        x = jax.lax.conv_general_dilated(
            x, params[f"w{i}"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.maximum(x + params[f"b{i}"], 0)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1) @ params["w3"] + params["b3"]


def _random_params(net: networks.Network, seed: int = 7) -> networks.Params:
    """Parameters of the right shapes, with biases that are not zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, KEY)
    return {name: jnp.float32(0.3 * rng.normal(size=shape.shape)) for name, shape in shapes.items()}


def _random_batch(*shape: int) -> jax.Array:
    return jnp.float32(np.random.default_rng(8).normal(size=shape))


def test_softmax_regression_is_an_affine_map() -> None:
    net = networks.softmax_regression((2, 3), num_classes=4)
    params = _random_params(net)
    x = _random_batch(5, 2, 3)
    w, b = np.float64(params["w1"]), np.float64(params["b1"])
    np.testing.assert_allclose(
        net.apply(params, x), np.float64(x).reshape(5, 6) @ w + b, rtol=1e-5, atol=1e-6
    )


def test_mlp_in_numpy() -> None:
    net = networks.mlp((8, 8, 1), num_classes=10, hidden=(7, 5))
    params = _random_params(net)
    x = _random_batch(6, 8, 8, 1)
    p = {name: np.float64(array) for name, array in params.items()}
    h = np.float64(x).reshape(6, 64)
    h = np.maximum(h @ p["w1"] + p["b1"], 0)
    h = np.maximum(h @ p["w2"] + p["b2"], 0)
    np.testing.assert_allclose(net.apply(params, x), h @ p["w3"] + p["b3"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 7, 3)])
def test_cnn_equals_lax_conv_in_value_and_gradient(shape: tuple[int, ...]) -> None:
    net = networks.cnn(shape, num_classes=10)
    params = _random_params(net)
    x = _random_batch(6, *shape)
    y = jnp.arange(6)

    @jax.jit
    def both(params: networks.Params) -> tuple[tuple, tuple]:
        def loss(apply, params):
            logits = apply(params, x)
            return networks.cross_entropy(logits, y), logits

        grad = jax.grad(loss, argnums=1, has_aux=True)
        return grad(net.apply, params), grad(_lax_cnn, params)

    ours, theirs = both(params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_cnn_equals_lax_conv_for_a_stack_of_models() -> None:
    net = networks.cnn((8, 8, 1), num_classes=10)
    members = [_random_params(net, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *members)
    x = _random_batch(6, 8, 8, 1)
    ours = jax.jit(jax.vmap(net.apply, in_axes=(0, None)))(stacked, x)
    assert ours.shape == (3, 6, 10)
    reference = jax.jit(_lax_cnn)
    for logits, params in zip(ours, members, strict=True):
        np.testing.assert_allclose(logits, reference(params, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "flat"), [((4,), 4 * 5 * 4), ([4, 6, 8], 1 * 1 * 8)])
def test_cnn_may_have_one_stage_or_three(channels, flat: int) -> None:
    net = networks.cnn((9, 11, 3), num_classes=5, channels=channels)
    params = jax.eval_shape(net.init, KEY)
    assert params[f"w{len(channels) + 1}"].shape == (flat, 5)
    x = jax.ShapeDtypeStruct((2, 9, 11, 3), jnp.float32)
    assert jax.eval_shape(net.apply, params, x).shape == (2, 5)


@pytest.mark.parametrize(
    ("net", "shapes"),
    [
        (
            networks.mlp((30,), 10, hidden=(400,)),
            {"w1": (30, 400), "b1": (400,), "w2": (400, 10), "b2": (10,)},
        ),
        (
            networks.cnn((8, 8, 20), 10, channels=(64,)),
            {"w1": (3, 3, 20, 64), "b1": (64,), "w2": (1024, 10), "b2": (10,)},
        ),
    ],
)
def test_initial_weights_follow_he(net: networks.Network, shapes: dict[str, tuple]) -> None:
    params = jax.tree.map(np.asarray, jax.jit(net.init)(KEY))
    assert {name: array.shape for name, array in params.items()} == shapes
    assert all(array.dtype == jnp.float32 for array in params.values())
    for name, array in params.items():
        if name[0] == "b":
            assert (array == 0).all()
            continue
        fan_in = array.size // array.shape[-1]
        error = 1 / np.sqrt(2 * array.size)  # the relative standard error of a sample deviation
        assert abs(float(array.mean())) < 4 * np.sqrt(2 / fan_in / array.size)
        assert abs(float(array.std()) / np.sqrt(2 / fan_in) - 1) < 4 * error


def test_keys_decide_the_parameters() -> None:
    net = networks.mlp((5,), 3)
    first, again, other = net.init(KEY), net.init(KEY), net.init(jax.random.key(1))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["w1"], other["w1"])


def test_cross_entropy_is_the_mean_negative_log_probability() -> None:
    logits = np.array([[1.0, 2.0, 0.5], [-1.0, 0.0, 3.0], [0.2, 0.1, 0.0], [5.0, 1.0, 1.0]])
    labels = np.array([0, 2, 1, 1])
    loss = networks.cross_entropy(jnp.float32(logits), jnp.int32(labels))
    np.testing.assert_allclose(loss, _numpy_softmax_cross_entropy(logits, labels), rtol=1e-6)
    assert loss.dtype == jnp.float32


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = jnp.array([[1e30, 0.0], [0.0, 100.0]])
    assert networks.cross_entropy(logits, jnp.array([0, 0])) == 50


def test_accuracy_counts() -> None:
    logits = jnp.array([[0.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0], [0.0, 9.0, 1.0]])
    accuracy = networks.accuracy(logits, jnp.array([2, 1, 0, 1]))
    assert accuracy == 0.75
    assert accuracy.dtype == jnp.float32


def test_labels_of_another_shape_do_not_broadcast() -> None:
    logits = jnp.zeros((4, 3))
    for labels in (jnp.zeros((4, 1), int), jnp.zeros(1, int), jnp.array(0)):
        for measure in (networks.cross_entropy, networks.accuracy):
            with pytest.raises(ValueError, match="need labels of shape"):
                measure(logits, labels)


NETS = {
    "softmax": networks.softmax_regression((8, 8, 1), 10),
    "mlp": networks.mlp((8, 8, 1), 10, hidden=(16,)),
    "cnn": networks.cnn((8, 8, 1), 10, channels=(4, 8)),
}


def _digit_like() -> tuple[np.ndarray, np.ndarray]:
    """100 noisy copies of ten patterns, one per class."""
    rng = np.random.default_rng(0)
    labels = np.arange(100, dtype=np.int32) % 10
    x = rng.normal(size=(10, 8, 8, 1))[labels] + 0.1 * rng.normal(size=(100, 8, 8, 1))
    return x.astype(np.float32), labels


@pytest.mark.parametrize("name", NETS)
def test_networks_learn_under_strict_promotion_in_float32(name: str) -> None:
    net = NETS[name]
    x, y = _digit_like()

    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(True):
        tx = optax.sgd(0.1)

        @jax.jit
        def train(params):
            def loss(params):
                logits = net.apply(params, x)
                return networks.cross_entropy(logits, y), networks.accuracy(logits, y)

            def step(_, carry):
                params, state = carry
                grads, _ = jax.grad(loss, has_aux=True)(params)
                updates, state = tx.update(grads, state)
                return optax.apply_updates(params, updates), state

            params, _ = jax.lax.fori_loop(0, 100, step, (params, tx.init(params)))
            return params, *loss(params)

        params, loss, accuracy = train(_random_params(net))
        assert {array.dtype for array in params.values()} == {jnp.dtype("float32")}
        assert loss.dtype == accuracy.dtype == jnp.float32
        assert accuracy == 1
        assert loss < 0.1


@pytest.mark.parametrize("name", NETS)
def test_x64_changes_no_dtype_by_itself(name: str) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        params = jax.eval_shape(NETS[name].init, KEY)
        assert {p.dtype for p in params.values()} == {jnp.dtype("float32")}
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float64), params)
        x = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float64)
        assert jax.eval_shape(NETS[name].apply, params, x).dtype == jnp.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: networks.mlp((4,), 1), "num_classes"),
        (lambda: networks.mlp((), 3), "input_shape"),
        (lambda: networks.mlp((4, 0), 3), "input_shape"),
        (lambda: networks.mlp((4,), 3, hidden=(8, 0)), "hidden"),
        (lambda: networks.softmax_regression((4,), 0), "num_classes"),
        (lambda: networks.cnn((8, 8), 3), "input_shape"),
        (lambda: networks.cnn((64,), 3), "input_shape"),
        (lambda: networks.cnn((8, 3, 1), 3), "at least 4"),
        (lambda: networks.cnn((8, 8, 1), 3, channels=()), "channels"),
        (lambda: networks.cnn((8, 8, 1), 3, channels=(8, -1)), "channels"),
        (lambda: networks.cnn((8, 8, 1), 1), "num_classes"),
    ],
)
def test_impossible_networks(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: networks.mlp((4,), 2.5),  # pyright: ignore[reportArgumentType]
        lambda: networks.mlp((4,), 3, hidden=64),  # pyright: ignore[reportArgumentType]
        lambda: networks.mlp((4,), 3, hidden=(6.5,)),  # pyright: ignore[reportArgumentType]
        lambda: networks.cnn((8, 8, 1), 3, channels="16"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_sizes_of_another_type(make) -> None:
    with pytest.raises(TypeError, match="must be a"):
        make()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("shape", [(5, 8, 8), (8, 8, 1), (5, 8, 8, 2), (5, 64)])
def test_a_batch_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    params = jax.eval_shape(NETS[name].init, KEY)
    with pytest.raises(ValueError, match=r"x must have the shape \(N, 8, 8, 1\), got"):
        jax.eval_shape(NETS[name].apply, params, jnp.zeros(shape))
