"""All methods on four landscapes, as an animation; rejected trials are hollow circles."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import descend
from cs231n_optax.problems.landscapes import Landscape, beale, rosenbrock, saddle, taco_shell

FRAMES = 60
REJECTED: dict[str, Any] = {
    "linestyle": ":",
    "linewidth": 1,
    "marker": "o",
    "fillstyle": "none",
    "markersize": 6,
}


class Course(NamedTuple):
    """A landscape with a start, the window that is drawn, and a learning rate per method."""

    landscape: Landscape
    start: tuple[float, float]
    window: tuple[float, float, float, float]
    rates: dict[str, float]


NAMES = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam-uncorrected", "adam")
COURSES = tuple(
    Course(landscape, start, window, dict(zip(NAMES, rates, strict=True)))
    for landscape, start, window, rates in (
        (taco_shell(25.0), (-9.0, 1.6), (-10, 3, -3, 3), (0.07, 0.02, 0.02, 1.5, 0.2, 0.3, 0.5)),
        (saddle(), (-1.5, 0.02), (-2, 1, -2, 2), (0.1, 0.05, 0.05, 0.3, 0.05, 0.05, 0.1)),
        (beale(), (1.0, 1.0), (-0.5, 4, -0.6, 1.6), (0.02, 0.01, 0.01, 0.5, 0.03, 0.05, 0.1)),
        (rosenbrock(), (-1.2, 1.0), (-2, 2, -1, 2.5), (2e-3, 1e-3, 1e-3, 0.5, 0.03, 0.1, 0.2)),
    )
)


class Data(NamedTuple):
    """For each course: its values on a grid; the points, and which were accepted, by method."""

    x: list[np.ndarray]
    y: list[np.ndarray]
    values: list[np.ndarray]
    paths: list[dict[str, tuple[np.ndarray, np.ndarray]]]


def methods(course: Course):
    """The methods of a course by name."""
    rates = course.rates
    return {
        "sgd": cs231n_optax.sgd(rates["sgd"]),
        "momentum": cs231n_optax.momentum(rates["momentum"]),
        "nesterov": cs231n_optax.nesterov(rates["nesterov"]),
        "adagrad": cs231n_optax.adagrad(rates["adagrad"]),
        "rmsprop": cs231n_optax.rmsprop(rates["rmsprop"]),
        "adam-uncorrected": cs231n_optax.adam(rates["adam-uncorrected"], bias_correction=False),
        "adam": cs231n_optax.adam(rates["adam"]),
        "lbfgs": cs231n_optax.lbfgs(),
        "newton": cs231n_optax.newton(),
    }


def compute() -> Data:
    """The paths of nine methods over 60 evaluations."""
    data = Data([], [], [], [])
    for course in COURSES:
        left, right, low, high = course.window
        x, y = np.linspace(left, right, 121), np.linspace(low, high, 101)
        data.x.append(x)
        data.y.append(y)
        data.values.append(style.grid_values(course.landscape.fun, x, y))
        paths = {}
        for name, tx in methods(course).items():
            path = descend(course.landscape.fun, course.start, tx, FRAMES - 1)
            paths[name] = np.asarray(path.points), np.asarray(path.accepted)
        data.paths.append(paths)
    return data


def rejections(points: np.ndarray, accepted: np.ndarray) -> np.ndarray:
    """For each rejected trial three rows: the point that it came from, the trial, and NaN."""
    trials = np.flatnonzero(~accepted)
    kept = np.flatnonzero(accepted)
    anchors = kept[np.searchsorted(kept, trials) - 1]
    rows = points[anchors], points[trials], np.full((len(trials), 2), np.nan)
    return np.stack(rows, axis=1).reshape(-1, 2)


def draw(data: Data) -> FuncAnimation:
    """Four panels; each method is a growing line with its head."""
    figure, axes = style.new_figure(2, 2, height=5.2)
    lines, heads, rejected = [], [], []
    for each, course, x, y, values, paths in zip(axes.ravel(), COURSES, *data, strict=True):
        above = values - course.landscape.minimum
        levels = np.geomspace(above.max() * 1e-4, above.max(), 14)
        style.contours(each, x, y, np.maximum(above, levels[0]), levels)
        each.scatter(*course.landscape.minimizers.T, **style.MINIMUM)
        each.set(xlim=course.window[:2], ylim=course.window[2:], title=course.landscape.name)
        for name in paths:
            line = style.METHOD_STYLES[name]
            lines += each.plot([], [], color=line.color, linewidth=1.3)
            heads += each.plot([], [], line.marker, color=line.color, markersize=5, label=name)
            rejected += each.plot([], [], color=line.color, markevery=(1, 3), **REJECTED)
    axes[0, 0].plot([], [], color="0.3", label="rejected trial", **REJECTED)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=5,
        fontsize=style.FONT_SIZE - 2,
        columnspacing=1.0,
        handletextpad=0.2,
        frameon=False,
    )
    runs = [path for paths in data.paths for path in paths.values()]

    def show(frame: int):
        for (points, accepted), line, head, hollow in zip(
            runs, lines, heads, rejected, strict=True
        ):
            seen, kept = points[: frame + 1], accepted[: frame + 1]
            line.set_data(*seen[kept].T)
            head.set_data(*seen[kept][-1:].T)
            hollow.set_data(*rejections(seen, kept).T)
        figure.suptitle(f"{frame + 1} evaluations", fontsize=style.FONT_SIZE)
        return [*lines, *heads, *rejected]

    return FuncAnimation(figure, show, frames=FRAMES, interval=120)
