"""The numbers behind each figure, against closed forms and the facts that the lecture states."""

import jax
import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib")

from matplotlib.figure import Figure

from cs231n_optax.lecture import catalog, step_vectors, style
from cs231n_optax.lecture.figures import (
    basins,
    cosine_cycles,
    effective_steps,
    first_order,
    learning_rates,
    loss_surface,
    measured_plane,
    momentum_crosses_plateau,
    momentum_leaves_minimum,
    momentum_plane,
    momentum_vectors,
    nesterov_vectors,
    race,
    second_order,
    sgd_movement,
    step_decay,
    stuck_in_local_minimum,
    stuck_on_plateau,
    taco_contours,
    unit_tests,
)
from cs231n_optax.lecture.landscapes import local_minimum, plateau

pytestmark = pytest.mark.usefixtures("x64")


def test_catalog():
    """Every module of the folder is in it, and says its section in its first line."""
    assert len(catalog.FIGURES) == 22
    for name, module in catalog.FIGURES.items():
        assert module.__name__.rpartition(".")[2].replace("_", "-") == name
        assert catalog.caption(name).endswith(".")


def test_stationary_points_of_the_landscapes():
    slope = jax.grad(local_minimum)
    np.testing.assert_allclose([slope(x) for x in (-1.0, 0.0, 2.0)], 0, atol=1e-12)
    np.testing.assert_allclose([local_minimum(-1.0), local_minimum(2.0)], [-5 / 12, -8 / 3])
    slope = jax.grad(plateau)
    np.testing.assert_allclose([slope(0.0), slope(2.0), jax.grad(slope)(0.0)], 0, atol=1e-12)
    np.testing.assert_allclose(plateau(2.0), -4 / 3)


def test_taco():
    data = taco_contours.compute()
    np.testing.assert_allclose(data.condition_number, taco_contours.KAPPA)
    x, y = taco_contours.P
    np.testing.assert_allclose(data.gradient, [x, 25 * y])
    np.testing.assert_allclose(data.values[0, 0], (data.x[0] ** 2 + 25 * data.y[0] ** 2) / 2)


def test_sgd_is_slow_along_and_jumps_across():
    """x_t = (1 - α)ᵗ x₀ and y_t = (1 - ακ)ᵗ y₀."""
    points = np.asarray(sgd_movement.compute().points)
    t = np.arange(len(points))
    factors = 1 - sgd_movement.RATE * np.array([1, sgd_movement.KAPPA])
    np.testing.assert_allclose(points, sgd_movement.START * factors ** t[:, None], rtol=1e-9)
    assert np.all(points[:-1, 1] * points[1:, 1] < 0)
    assert np.all(np.diff(points[:, 0]) > 0)


def test_sgd_stops_where_momentum_goes_on():
    stuck = stuck_in_local_minimum.compute()
    np.testing.assert_allclose(stuck.points[-1], -1, atol=1e-3)
    np.testing.assert_allclose(momentum_leaves_minimum.compute().points[-1], 2, atol=1e-2)
    stuck = stuck_on_plateau.compute()
    assert -0.15 < stuck.on_plateau.points[-1, 0] < 0
    np.testing.assert_allclose(stuck.on_saddle.points[-1], 0, atol=1e-6)
    np.testing.assert_allclose(momentum_crosses_plateau.compute().points[-1], 2, atol=1e-2)


@pytest.mark.parametrize("figure", [momentum_vectors, nesterov_vectors])
def test_velocity_and_gradient_make_the_step(figure):
    """By NumPy, from the rules of the lecture."""
    data = figure.compute()
    np.testing.assert_allclose(data.velocity + data.gradient, data.step, rtol=1e-12)
    x, v = np.array(step_vectors.START), np.zeros(2)
    a, rho, h = step_vectors.RATE, step_vectors.RHO, np.array([1, step_vectors.KAPPA])
    for _ in range(step_vectors.STEP):
        if figure is momentum_vectors:
            v = rho * v + h * x
            x = x - a * v
        else:
            v = rho * v - a * h * (x + rho * v)
            x = x + v
    np.testing.assert_allclose(data.x, x, rtol=1e-12)
    velocity = -a * rho * v if figure is momentum_vectors else rho * v
    np.testing.assert_allclose(data.velocity, velocity, rtol=1e-12)
    ahead = x if figure is momentum_vectors else x + rho * v
    np.testing.assert_allclose(data.ahead, ahead, rtol=1e-12)
    np.testing.assert_allclose(data.gradient, -a * h * ahead, rtol=1e-12)


def test_models_touch_the_function():
    """Value and slope agree at the point; the Newton step ends where the parabola is lowest."""
    for module in (first_order, second_order):
        data = module.compute()
        i = np.argmin(np.abs(data.x - data.point))
        gap = np.asarray(data.fun) - np.asarray(data.approximation)
        assert abs(gap[i]) < 1e-2
        assert abs(gap[i + 1] - gap[i - 1]) < 1e-2
    lowest = data.x[np.argmin(data.approximation)]
    np.testing.assert_allclose(data.after, lowest, atol=data.x[1] - data.x[0])


def test_four_regimes_of_the_learning_rate():
    very_high, high, good, low = np.asarray(learning_rates.compute().loss)
    start = np.log(10)
    assert very_high[-1] > start
    assert good[-1] < low[-1] < start
    assert good[1] < high[1] < high[0]  # high falls at first, ...
    assert good[-1] < high[-1]  # ... and stays above
    assert np.all(np.diff(low) < 0)


def test_loss_falls_at_each_drop():
    data = step_decay.compute()
    decayed, constant = np.asarray(data.decayed), np.asarray(data.constant)
    every = step_decay.DROP_EVERY
    np.testing.assert_array_equal(decayed[:every], constant[:every])
    before = np.diff(np.log(decayed))
    for drop in range(every, step_decay.EPOCHS, every):
        assert before[drop - 1] < 1.3 * before[drop - 2] < 0
    assert decayed[-1] < constant[-1] / 2


def test_rate_of_momentum_in_closed_form():
    """√ρ below the curve of critical damping; 1 on the border of divergence (Goh, 2017)."""
    data = momentum_plane.compute()
    alpha, rho = np.meshgrid(data.alpha, data.rho)
    b = 1 + rho - alpha
    roots = (b[..., None] + np.sqrt(b**2 - 4 * rho + 0j)[..., None] * [1, -1]) / 2
    np.testing.assert_allclose(data.rate, np.abs(roots).max(-1), atol=1e-6)
    complex_ones = b**2 < 4 * rho - 1e-9
    np.testing.assert_allclose(data.rate[complex_ones], np.sqrt(rho[complex_ones]), rtol=1e-6)


@pytest.mark.slow
def test_more_momentum_wants_a_smaller_rate():
    """The best rate falls as ρ grows, about as 1 - ρ; for Adam it hardly depends on β₁."""
    data = measured_plane.compute()
    best = data.rates[np.nanargmin(np.asarray(data.momentum), axis=1)]
    assert best[-1] < best[0] / 10
    best = data.rates[np.nanargmin(np.asarray(data.adam), axis=1)]
    assert best.max() / best.min() < 10


@pytest.mark.slow
def test_basins(monkeypatch):
    """Every start of L-BFGS, BFGS and Newton reaches a minimum; a start at one stays there."""
    monkeypatch.setattr(basins, "GRID", 13)
    data = basins.compute()
    for i in (3, 4, 5):
        assert np.all(data.reached[i] >= 0)
    at = np.argmin(np.abs(data.x - 3)), np.argmin(np.abs(data.x - 2))
    assert np.all(data.reached[[0, 3, 4, 5], at[1], at[0]] == 0)


def test_first_steps_of_adaptive_methods(monkeypatch):
    """√10 α for RMSProp, √10 α for Adam without correction, α for AdaGrad and Adam."""
    monkeypatch.setattr(effective_steps, "STEPS", 300)
    median = effective_steps.compute().median
    np.testing.assert_allclose(median[:, 0], [1, np.sqrt(10), np.sqrt(10), 1], rtol=1e-3)
    assert median[0, -1] < 0.1  # AdaGrad's steps vanish, ...
    assert median[1, -100:].mean() > 3 * median[0, -100:].mean()  # ... RMSProp's do not


def test_cosine_cycles(monkeypatch):
    monkeypatch.setattr(cosine_cycles, "CYCLE", 60)
    data = cosine_cycles.compute()
    n, cycle = cosine_cycles.CYCLES * cosine_cycles.CYCLE, cosine_cycles.CYCLE
    phase = np.arange(n) % cycle / cycle
    np.testing.assert_allclose(
        data.rate, cosine_cycles.RATE / 2 * (np.cos(np.pi * phase) + 1), rtol=1e-5, atol=1e-7
    )
    assert data.accuracy.shape == (cosine_cycles.CYCLES,)
    assert data.ensemble_accuracy > 0.9


@pytest.mark.slow
def test_loss_surface(monkeypatch):
    """The lowest point of the random plane is the solution; the start is the same for all."""
    monkeypatch.setattr(loss_surface, "GRID", 9)
    data = loss_surface.compute()
    assert np.unravel_index(np.argmin(data.random), (9, 9)) == (4, 4)
    assert np.ptp(data.trajectories[:, 0], axis=0).max() < 1e-5
    assert 0.5 < data.explained <= 1


@pytest.mark.slow
def test_unit_tests(monkeypatch):
    """Without noise SGD solves the steep bowl in one step, and noise never helps it there."""
    monkeypatch.setattr(unit_tests, "SEEDS", 3)
    monkeypatch.setattr(unit_tests, "RATES", np.geomspace(1e-3, 10, 9))
    monkeypatch.setattr(
        unit_tests, "METHODS", {name: unit_tests.METHODS[name] for name in ("sgd", "adagrad")}
    )
    left = unit_tests.compute().left
    bowl, steep = list(unit_tests.SHAPES).index("bowl"), list(unit_tests.SHAPES).index("steep")
    assert left.shape == (2, 8, 5)
    assert left[0, steep, 0] < 1e-8
    assert np.all(left[0, bowl, 1:] >= left[0, bowl, 0])


def test_a_rejected_trial_is_joined_to_the_point_before_it():
    points = np.arange(10.0).reshape(5, 2)
    rows = race.rejections(points, np.array([True, False, False, True, False]))
    nan = [np.nan, np.nan]
    expected = [points[0], points[1], nan, points[0], points[2], nan, points[3], points[4], nan]
    np.testing.assert_array_equal(rows, expected)
    assert race.rejections(points, np.full(5, True)).shape == (0, 2)


@pytest.mark.slow
def test_race():
    """L-BFGS and Newton are at the minimum of every course after 60 evaluations."""
    data = race.compute()
    for course, paths in zip(race.COURSES, data.paths, strict=True):
        for name in ("lbfgs", "newton"):
            points, accepted = paths[name]
            distance = np.linalg.norm(course.landscape.minimizers - points[accepted][-1], axis=1)
            assert distance.min() < 1e-4, (course.landscape.name, name)


def test_colours_are_told_apart():
    """Eleven methods, eleven colours."""
    assert len({line.color for line in style.METHOD_STYLES.values()}) == 11


def test_drawing():
    """A figure has the size that it is shown at, and no text outside of it."""
    figure = taco_contours.draw(taco_contours.compute())
    assert isinstance(figure, Figure)
    assert tuple(figure.get_size_inches() * figure.dpi) == (1200, 580)
    figure.canvas.draw()
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert box.x0 >= 0
        assert box.x1 <= 1200
