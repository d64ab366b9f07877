"""`hessian_matrix` and `hvp`: against closed forms and SciPy's Rosenbrock, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co
from cs231n_optax.problems import landscapes

N = 8  # real numbers in each of the trees


pytestmark = pytest.mark.usefixtures("x64")


# A function whose Hessian is A + diag(x²), of the same eight numbers in any tree.

MATRIX = np.random.default_rng(0).standard_normal((N, N))
MATRIX = MATRIX + MATRIX.T


def quartic(x):
    """½ x·A x + Σ xᵢ⁴ / 12."""
    return x @ jnp.asarray(MATRIX, x.dtype) @ x / 2 + jnp.sum(x**4) / 12


def its_hessian(x):
    return MATRIX + np.diag(np.asarray(x, np.float64) ** 2)


def complex_of(x):
    return jnp.concatenate([x.real.reshape(-1), x.imag.reshape(-1)])


def scalars_of(tree):
    """{"b", "w"}: a dict goes by its keys, an array row by row."""
    return jnp.concatenate([tree["b"].reshape(1), tree["w"].reshape(-1), tree["x"]])


def nested_of(tree):
    (a, b), c = tree
    return jnp.concatenate([a, b["p"].reshape(-1), b["q"].reshape(1), c])


def mixed_of(tree):
    z, x = tree
    return jnp.concatenate([z.real, z.imag, x.reshape(-1)])


TREES = {  # the tree of a vector, and the vector of a tree
    "vector": (lambda x: x, lambda x: x),
    "matrix": (lambda x: x.reshape(2, 4), lambda x: x.reshape(-1)),
    "dict": (
        lambda x: {"w": x[1:7].reshape(3, 2), "x": x[7:], "b": x[0].reshape(())},
        scalars_of,
    ),
    "nested": (
        lambda x: [(x[:2], {"q": x[6].reshape(()), "p": x[2:6].reshape(2, 2)}), x[7:]],
        nested_of,
    ),
    "complex": (lambda x: (x[:4] + 1j * x[4:]).reshape(2, 2), complex_of),
    "complex and real": (lambda x: (x[:3] + 1j * x[3:6], x[6:].reshape(2, 1)), mixed_of),
}
every_tree = pytest.mark.parametrize("name", TREES)
POINT = np.random.default_rng(1).standard_normal(N)


def fun_of(name):
    return lambda tree: quartic(TREES[name][1](tree))


@functools.cache
def matrix_of(name, batch_size=256):
    fun = fun_of(name)
    return jax.jit(lambda tree: co.hessian_matrix(fun, tree, batch_size=batch_size))


@functools.cache
def product_of(name):
    fun = fun_of(name)
    return jax.jit(lambda tree, v: co.hvp(fun, tree, v))


few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def vectors(seed, count=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, N)) * 10 ** rng.uniform(-3, 3, (count, 1))


@every_tree
class TestClosedForm:
    @few
    @given(seed=seeds)
    def test_matrix(self, name, seed):
        x, _ = vectors(seed)
        found = matrix_of(name)(TREES[name][0](x))
        assert found.shape == (N, N)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, its_hessian(x), rtol=1e-12, atol=1e-12 * (x @ x))
        np.testing.assert_array_equal(found, found.T)

    @few
    @given(seed=seeds)
    def test_product(self, name, seed):
        x, v = vectors(seed)
        make, flat_of = TREES[name]
        found = product_of(name)(make(x), make(v))
        like = make(x)
        assert jax.tree.structure(found) == jax.tree.structure(like)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        scale = np.linalg.norm(its_hessian(x)) * np.linalg.norm(v)
        np.testing.assert_allclose(flat_of(found), its_hessian(x) @ v, rtol=0, atol=1e-13 * scale)

    @few
    @given(seed=seeds)
    def test_matrix_agrees_with_product(self, name, seed):
        x, v = vectors(seed)
        make, flat_of = TREES[name]
        product = flat_of(product_of(name)(make(x), make(v)))
        scale = np.linalg.norm(its_hessian(x)) * np.linalg.norm(v)
        np.testing.assert_allclose(
            matrix_of(name)(make(x)) @ v, product, rtol=0, atol=1e-13 * scale
        )


@pytest.mark.parametrize("name", ["vector", "complex and real"])
@pytest.mark.parametrize("batch_size", [1, 3, N - 1, N, 10**9])
def test_rows_at_a_time(name, batch_size):
    found = matrix_of(name, batch_size)(TREES[name][0](POINT))
    np.testing.assert_allclose(found, its_hessian(POINT), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("batch_size", [2, 256])
def test_rosenbrock_against_scipy(n, batch_size):
    fun = landscapes.rosenbrock(n).fun
    matrix = jax.jit(lambda x: co.hessian_matrix(fun, x, batch_size=batch_size))
    product = jax.jit(lambda x, v: co.hvp(fun, x, v))
    rng = np.random.default_rng(n)
    for x, v in rng.uniform(-3, 3, (5, 2, n)):
        expected = scipy.optimize.rosen_hess(x)
        np.testing.assert_allclose(matrix(x), expected, rtol=1e-13, atol=1e-10)
        expected = scipy.optimize.rosen_hess_prod(x, v)
        np.testing.assert_allclose(product(x, v), expected, rtol=1e-12, atol=1e-10)


SKEW = np.triu(np.ones((3, 3)), 1)


@jax.custom_jvp
def falsely_derived(x):
    return x @ x / 2


@falsely_derived.defjvp
def falsely_derived_jvp(primals, tangents):
    (x,), (v,) = primals, tangents
    return falsely_derived(x), (x + (SKEW - SKEW.T) @ x) @ v


@pytest.mark.parametrize("batch_size", [1, 3])
def test_matrix_is_made_symmetric(batch_size):
    """Of a gradient x + (S - Sᵀ) x, which no function has."""
    found = co.hessian_matrix(falsely_derived, jnp.ones(3), batch_size=batch_size)
    np.testing.assert_array_equal(found, np.eye(3))


# Scalars, empty trees and other dtypes.


@pytest.mark.parametrize("batch_size", [1, 256])
def test_scalar(batch_size):
    found = co.hessian_matrix(lambda x: x**3, jnp.array(2.0), batch_size=batch_size)
    np.testing.assert_array_equal(found, [[12.0]])
    product = co.hvp(lambda x: x**3, jnp.array(2.0), jnp.array(-1.0))
    assert product.shape == ()
    assert product == -12.0


@pytest.mark.parametrize("tree", [{}, None, jnp.zeros(0), [jnp.zeros((0, 3)), {}]], ids=str)
def test_empty_tree(tree):
    def fun(tree):
        return sum((jnp.sum(x) for x in jax.tree.leaves(tree)), jnp.ones(()))

    assert co.hessian_matrix(fun, tree).shape == (0, 0)
    assert jax.tree.structure(co.hvp(fun, tree, tree)) == jax.tree.structure(tree)


def test_linear_function():
    x = jnp.arange(3.0)
    for batch_size in (1, 256):
        found = co.hessian_matrix(jnp.sum, x, batch_size=batch_size)
        np.testing.assert_array_equal(found, np.zeros((3, 3)))
    np.testing.assert_array_equal(co.hvp(jnp.sum, x, x), np.zeros(3))


def modulus_to_the_fourth(z):
    return jnp.sum((z.real**2 + z.imag**2) ** 2)


def test_complex_moduli():
    """|z|² = x² + y² has the Hessian 2 I, and |z|⁴ its own blocks, real parts first."""
    z = jnp.array([1.0 + 2.0j, -0.5j])
    found = jax.jit(lambda z: co.hessian_matrix(lambda z: jnp.sum(jnp.abs(z) ** 2), z))(z)
    np.testing.assert_allclose(found, 2 * np.eye(4), atol=1e-14)
    x, y = np.real(z), np.imag(z)
    expected = np.block(
        [
            [np.diag(12 * x**2 + 4 * y**2), np.diag(8 * x * y)],
            [np.diag(8 * x * y), np.diag(4 * x**2 + 12 * y**2)],
        ]
    )
    found = jax.jit(lambda z: co.hessian_matrix(modulus_to_the_fourth, z))(z)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


DTYPES = {
    ("float32",): "float32",
    ("float64",): "float64",
    ("bfloat16",): "float32",
    ("float16",): "float32",
    ("complex64",): "float32",
    ("complex128",): "float64",
    ("bfloat16", "float32"): "float32",
    ("float32", "float64"): "float64",
    ("float16", "complex64"): "float32",
    ("float32", "complex128"): "float64",
}


@pytest.mark.parametrize("dtypes", DTYPES, ids=" ".join)
def test_the_widest_dtype(dtypes):
    """The Hessian of Σ |x|² / 2 has the widest dtype; products keep those of the parameters."""

    def fun(tree):
        parts = [(x.real**2 + x.imag**2).sum() / 2 for x in tree]
        return sum(part.astype(jnp.float64) for part in parts)

    @jax.jit
    def both(tree):
        return [co.hessian_matrix(fun, tree, batch_size=k) for k in (1, 256)], co.hvp(
            fun, tree, tree
        )

    tree = [jnp.ones(2, dtype) for dtype in dtypes]
    matrices, product = both(tree)
    for found in matrices:
        assert found.dtype == DTYPES[dtypes]
        np.testing.assert_array_equal(found, np.eye(len(found)))
    for one, other in zip(product, tree, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# Transformed.


@pytest.mark.parametrize("batch_size", [3, 256])
def test_under_vmap(batch_size):
    points = np.random.default_rng(2).standard_normal((5, N))
    found = jax.jit(jax.vmap(lambda x: co.hessian_matrix(quartic, x, batch_size=batch_size)))(
        points
    )
    np.testing.assert_allclose(found, [its_hessian(x) for x in points], rtol=1e-13, atol=1e-13)
    products = jax.jit(jax.vmap(lambda x: co.hvp(quartic, x, x)))(points)
    expected = [its_hessian(x) @ x for x in points]
    np.testing.assert_allclose(products, expected, rtol=1e-12, atol=1e-12)


def test_many_products_at_one_point():
    product = jax.jit(jax.vmap(lambda v: co.hvp(quartic, jnp.asarray(POINT), v)))
    np.testing.assert_allclose(product(np.eye(N)), its_hessian(POINT), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("batch_size", [3, 256])
def test_derivative_of_the_matrix(batch_size):
    """d/dt of A + diag((t x)²) at t = 1."""

    def at(t):
        return co.hessian_matrix(quartic, t * jnp.asarray(POINT), batch_size=batch_size)

    np.testing.assert_allclose(jax.jit(jax.jacfwd(at))(1.0), np.diag(2 * POINT**2), atol=1e-13)


# Memory.

WIDE, MANY = 4096, 64


def memory(batch_size):
    """Temporary bytes of the Hessian of Σ sin(W x), with W of 4096 rows."""

    def hessian(x, weights):
        def fun(x):
            return jnp.sum(jnp.sin(weights @ x))

        return co.hessian_matrix(fun, x, batch_size=batch_size)

    args = (
        jax.ShapeDtypeStruct((MANY,), jnp.float64),
        jax.ShapeDtypeStruct((WIDE, MANY), jnp.float64),
    )
    return jax.jit(hessian).lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_fewer_rows_take_less_memory():
    """All rows at once hold 64 rows of 4096 numbers; four at a time a sixteenth of it."""
    at_once, some, few_rows = memory(MANY), memory(16), memory(4)
    assert at_once >= MANY * WIDE * 8
    assert some >= 16 * WIDE * 8
    assert few_rows <= at_once / 4
