"""Landscapes: NumPy transcriptions, closed forms, and minima that are minima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cs231n_optax.problems import landscapes


def _rosenbrock(x: np.ndarray) -> float:
    return sum(100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(len(x) - 1))


def _beale(x: np.ndarray) -> float:
    constants = (1.5, 2.25, 2.625)
    return sum((c - x[0] * (1 - x[1] ** (i + 1))) ** 2 for i, c in enumerate(constants))


ALL = {
    "taco_shell": (landscapes.taco_shell(), lambda x: x[0] ** 2 / 2 + 50 * x[1] ** 2),
    "taco_shell_7": (landscapes.taco_shell(7), lambda x: x[0] ** 2 / 2 + 3.5 * x[1] ** 2),
    "rosenbrock": (landscapes.rosenbrock(), _rosenbrock),
    "rosenbrock_5": (landscapes.rosenbrock(5), _rosenbrock),
    "beale": (landscapes.beale(), _beale),
    "himmelblau": (
        landscapes.himmelblau(),
        lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    ),
    "saddle": (landscapes.saddle(), lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4),
}

over_all = pytest.mark.parametrize(("landscape", "reference"), ALL.values(), ids=ALL)


@over_all
def test_value_is_the_textbooks(landscape: landscapes.Landscape, reference) -> None:
    points = np.random.default_rng(0).uniform(-4, 4, (20, len(landscape.x0)))
    expected = np.array([reference(point) for point in points])
    with jax.enable_x64(True):
        values = jax.jit(jax.vmap(landscape.fun))(points)
        np.testing.assert_allclose(values, expected, rtol=1e-12)
        np.testing.assert_allclose(landscape.fun(points[0]), expected[0], rtol=1e-12)


@over_all
def test_minimizers_are_minima(landscape: landscapes.Landscape, reference) -> None:
    del reference

    @jax.jit
    @jax.vmap
    def derivatives(point: jax.Array) -> tuple[jax.Array, ...]:
        fun = landscape.fun
        return fun(point), jax.grad(fun)(point), jax.hessian(fun)(point)

    with jax.enable_x64(True):
        values, gradients, hessians = derivatives(landscape.minimizers)
    np.testing.assert_allclose(values, landscape.minimum, rtol=1e-14, atol=1e-25)
    np.testing.assert_allclose(gradients, 0, atol=2e-13)
    assert (np.linalg.eigvalsh(hessians) > 0).all()
    assert landscape.minimizers.shape[1:] == landscape.x0.shape
    assert landscape.x0.dtype == landscape.minimizers.dtype == np.float64
    assert isinstance(landscape.minimum, float)


@over_all
def test_nothing_lies_below_the_minimum(landscape: landscapes.Landscape, reference) -> None:
    points = np.random.default_rng(1).normal(scale=3, size=(2000, len(landscape.x0)))
    assert min(map(reference, points)) > landscape.minimum


@over_all
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype_is_kept_under_strict_promotion(
    landscape: landscapes.Landscape, reference, dtype: str
) -> None:
    del reference
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        x = jax.ShapeDtypeStruct(landscape.x0.shape, dtype)
        value, gradient = jax.eval_shape(jax.value_and_grad(landscape.fun), x)
        hessian = jax.eval_shape(jax.hessian(landscape.fun), x)
    assert value.shape == ()
    assert value.dtype == gradient.dtype == hessian.dtype == dtype


@over_all
def test_gradient_agrees_with_differences(landscape: landscapes.Landscape, reference) -> None:
    x = landscape.x0 + 0.3
    step = 1e-5
    differences = [
        (reference(x + step * e) - reference(x - step * e)) / (2 * step) for e in np.eye(len(x))
    ]
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.grad(landscape.fun)(x), differences, rtol=1e-6, atol=1e-6)


# facts about each


def test_taco_shell_has_its_condition_number() -> None:
    for kappa in (1, 4.0, np.float64(1000.0)):
        hessian = jax.jit(jax.hessian(landscapes.taco_shell(kappa).fun))(jnp.zeros(2))
        np.testing.assert_array_equal(hessian, np.diag([1.0, kappa]))


def test_taco_shell_under_vmap_over_condition_numbers() -> None:
    values = jax.vmap(lambda kappa: landscapes.taco_shell(kappa).fun(jnp.ones(2)))(
        jnp.array([1.0, 9.0])
    )
    np.testing.assert_array_equal(values, [1.0, 5.0])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_taco_shell_computes_in_the_points_dtype(dtype: str) -> None:
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        bowl = landscapes.taco_shell(jnp.float32(4.0))
        assert bowl.fun(jnp.ones(2, dtype)).dtype == dtype


@pytest.mark.parametrize("kappa", [0.5, 0, -3, np.inf, np.nan])
def test_taco_shell_needs_a_condition_number(kappa: float) -> None:
    with pytest.raises(ValueError, match="condition_number"):
        landscapes.taco_shell(kappa)


def test_rosenbrock_known_values() -> None:
    """At the usual start f is 24.2 (Moré, Garbow and Hillstrom, problem 1: 24.2 = 4.4² + 2.2²)."""
    with jax.enable_x64(True):
        plane = landscapes.rosenbrock()
        np.testing.assert_allclose(plane.fun(plane.x0), 24.2, rtol=1e-14)
        eigenvalues = np.linalg.eigvalsh(jax.jit(jax.hessian(plane.fun))(np.ones(2)))
        np.testing.assert_allclose(eigenvalues, 501 + np.array([-1, 1]) * np.sqrt(250601))
    np.testing.assert_array_equal(landscapes.rosenbrock(5).x0, [-1.2, 1, -1.2, 1, -1.2])


def test_rosenbrock_checks_dimensions() -> None:
    with pytest.raises(ValueError, match=r"\bn\b"):
        landscapes.rosenbrock(1)
    with pytest.raises(TypeError, match=r"\bn\b"):
        landscapes.rosenbrock(2.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"must have the shape \(3,\), got \(4,\)"):
        landscapes.rosenbrock(3).fun(jnp.ones(4))


def test_beale_starts_at_its_published_value() -> None:
    """At (1, 1) the terms are the three constants themselves."""
    landscape = landscapes.beale()
    assert landscape.fun(landscape.x0) == 1.5**2 + 2.25**2 + 2.625**2


def test_himmelblau_minimizers_solve_its_two_equations_to_the_last_digit() -> None:
    """Eliminating y = 11 - x² leaves x⁴ - 22 x² + x + 114 = 0, whose roots are the four x."""
    roots = np.roots([1.0, 0.0, -22.0, 1.0, 114.0])
    minimizers = landscapes.himmelblau().minimizers
    np.testing.assert_allclose(np.sort(minimizers[:, 0]), np.sort(roots), rtol=1e-13)
    np.testing.assert_allclose(minimizers[:, 1], 11 - minimizers[:, 0] ** 2, rtol=2e-15)


def test_saddle_starts_exactly_on_the_saddle() -> None:
    landscape = landscapes.saddle()
    np.testing.assert_array_equal(jax.grad(landscape.fun)(landscape.x0), [0.0, 0.0])
    np.testing.assert_array_equal(jax.hessian(landscape.fun)(landscape.x0), np.diag([2.0, -2.0]))
    np.testing.assert_array_equal(
        np.abs(landscape.minimizers), [[0.0, np.sqrt(2)], [0.0, np.sqrt(2)]]
    )


@pytest.mark.parametrize("name", ["taco_shell", "beale", "himmelblau", "saddle"])
def test_functions_of_the_plane_refuse_other_points(name: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        ALL[name][0].fun(jnp.ones(3))
