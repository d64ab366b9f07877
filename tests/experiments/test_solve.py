"""A solve: its record against `minimize`, its files read back, and what is printed."""

import csv
import io
import json
import math

import jax
import matplotlib.image
import numpy as np
import optax
import pytest
from rich.console import Console

import cs231n_optax
from cs231n_optax import Status
from cs231n_optax.experiments.solve import experiment, picture, report
from cs231n_optax.problems import landscapes

TAKEN = {  # name: the problem, the method, and how it ends
    "lbfgs": (landscapes.rosenbrock(), cs231n_optax.lbfgs(), Status.CONVERGED),
    "gd": (
        landscapes.taco_shell(),
        cs231n_optax.with_line_search(optax.identity()),
        Status.CONVERGED,
    ),
    "adam": (landscapes.rosenbrock(3), cs231n_optax.adam(0.1), Status.BUDGET),
    "sgd": (landscapes.rosenbrock(), cs231n_optax.sgd(0.1), Status.FAILED),
    "newton": (landscapes.saddle(), cs231n_optax.newton(), Status.CONVERGED),
    "newton-cg": (landscapes.rosenbrock(), cs231n_optax.newton_cg(), Status.CONVERGED),
    "bfgs": (landscapes.himmelblau(), cs231n_optax.bfgs(), Status.CONVERGED),
}


def setting(landscape, method, dtype="float64", start=None, max_evals=100):
    start = tuple(landscape.x0.tolist()) if start is None else start
    return experiment.Setting(
        problem=landscape.name,
        start=start,
        method=method,
        method_options={},
        dtype=dtype,
        tol=1e-5,
        max_evals=max_evals,
    )


def silent(num_evals, value, grad_norm):
    pass


@pytest.fixture(scope="module")
def progress():
    """What each method's progress callback is called with."""
    return {name: [] for name in TAKEN}


@pytest.fixture(scope="module")
def solutions(progress):
    def solution(name, landscape, tx):
        def record(*news):
            progress[name].append(news)

        return experiment.run(landscape, tx, setting(landscape, name), record)

    return {name: solution(name, landscape, tx) for name, (landscape, tx, _) in TAKEN.items()}


@pytest.mark.parametrize("name", TAKEN)
def test_the_record_is_minimizes(name, solutions, progress):
    """Every evaluation is recorded once, although Newton's methods differentiate in the update."""
    landscape, tx, status = TAKEN[name]
    with jax.enable_x64(True):
        result = cs231n_optax.minimize(landscape.fun, landscape.x0, tx, max_evals=100)
        best = np.flatnonzero(solutions[name].track.accepted)[-1]
        track = solutions[name].track
        planar = len(landscape.x0) == 2
        values = jax.vmap(landscape.fun)(track.points) if planar else None
    got = solutions[name]
    assert got.status == status == int(result.status)
    assert (got.num_evals, got.num_steps) == (result.num_evals, result.num_steps)
    np.testing.assert_allclose(got.params, result.params, rtol=1e-12)
    np.testing.assert_allclose(got.value, result.value, rtol=1e-10)
    # Near the minimum the gradient is a difference: its error is that of the parameters · 10³.
    grad_norm = np.max(np.abs(result.grad))
    np.testing.assert_allclose(got.grad_norm, grad_norm, rtol=1e-10, atol=1e-12)

    assert {len(column) for column in track} == {got.num_evals}
    assert track.accepted.sum() == got.num_steps + 1
    np.testing.assert_array_equal(np.isnan(track.grad_norm), ~track.accepted)
    if planar:
        np.testing.assert_array_equal(track.points[0], landscape.x0)
        np.testing.assert_array_equal(track.points[best], got.params)
        np.testing.assert_allclose(track.value[:3], values[:3], rtol=1e-12)
        np.testing.assert_allclose(track.value, values, rtol=1e-9, atol=1e-12)
    else:
        assert track.points.shape == (got.num_evals, 0)
    assert [num_evals for num_evals, *_ in progress[name]] == list(range(1, got.num_evals + 1))
    assert progress[name][-1][1:] == (got.value, got.grad_norm)


@pytest.mark.parametrize("name", ["bfgs", "newton", "newton-cg"])
def test_the_minimum_is_found(name, solutions):
    assert solutions[name].distance < 1e-3


@pytest.mark.parametrize("name", ["lbfgs", "newton-cg"])
def test_what_does_not_help_is_rejected(name, solutions):
    track = solutions[name].track
    assert 0 < np.sum(~track.accepted) < len(track.accepted)
    assert np.all(np.diff(track.value[track.accepted]) < 0)


def test_newton_leaves_the_saddle_on_which_it_starts(solutions):
    solution = solutions["newton"]
    assert solution.value == pytest.approx(-1)
    assert solution.distance < 1e-4
    np.testing.assert_array_equal(solution.track.points[0], [0, 0])


def test_the_precision_is_the_asked_one(solutions):
    assert solutions["bfgs"].params.dtype == solutions["bfgs"].track.value.dtype == "float64"
    landscape = landscapes.beale()
    given = setting(landscape, "bfgs", "float32")
    solution = experiment.run(landscape, cs231n_optax.bfgs(), given, silent)
    assert solution.params.dtype == solution.track.value.dtype == "float32"


def test_ctrl_c_is_heard_within_an_evaluation(caplog):
    def interrupt(num_evals, value, grad_norm):
        if num_evals == 5:
            raise KeyboardInterrupt

    landscape = landscapes.rosenbrock()
    with pytest.raises(KeyboardInterrupt):
        experiment.run(landscape, cs231n_optax.lbfgs(), setting(landscape, "lbfgs"), interrupt)
    assert not caplog.records


def test_another_error_is_not_taken_for_ctrl_c():
    def stumble(num_evals, value, grad_norm):
        raise RuntimeError("no such bar")

    landscape = landscapes.rosenbrock()
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such bar"):
        experiment.run(landscape, cs231n_optax.lbfgs(), setting(landscape, "lbfgs"), stumble)


# What it tells.


def told(name, solutions, given=None):
    file = io.StringIO()
    landscape = TAKEN[name][0]
    console = Console(file=file, width=80)
    given = given or setting(landscape, name)
    report.introduce(given, console)
    report.conclude(given, solutions[name], console)
    return file.getvalue()


def test_the_transcript(solutions):
    text = told("lbfgs", solutions)
    assert "Problem: Rosenbrock, 2 variables, from (-1.2, 1)." in text
    assert "CONVERGED: the gradient is as small as --tol asks." in text
    assert "Point: (0.99998" in text
    assert "Distance to the nearest known minimiser: " in text
    rows = [line.split() for line in text.splitlines() if line.endswith(("accepted ", "rejected "))]
    evaluations = [int(row[0]) for row in rows]
    assert len(rows) == 25
    assert evaluations == sorted(evaluations)
    assert (evaluations[0], evaluations[-1]) == (1, solutions["lbfgs"].num_evals)
    assert f"25 of {evaluations[-1]} evaluations are shown" in text
    assert "BUDGET: the evaluations are used up" in told("adam", solutions)
    assert "FAILED: it met values that are not finite" in told("sgd", solutions)


def test_a_short_trace_is_whole(solutions):
    few = solutions["sgd"]
    assert few.num_evals <= 25
    assert "Thinned" not in told("sgd", solutions)


def test_a_start_that_is_not_finite():
    landscape = landscapes.rosenbrock()
    given = setting(landscape, "lbfgs", start=(1e200, 1.0))
    solution = experiment.run(landscape, cs231n_optax.lbfgs(), given, silent)
    assert (solution.status, solution.num_evals) == (Status.FAILED, 1)
    assert solution.value == math.inf
    assert "Value: inf; max |∇f|: nan." in told("lbfgs", {"lbfgs": solution}, given)


def test_the_files(solutions, tmp_path):
    landscape = TAKEN["lbfgs"][0]
    solution = solutions["lbfgs"]
    names = report.write(tmp_path, setting(landscape, "lbfgs"), landscape, solution)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert sorted(names) == ["path.png", "solve.csv", "solve.json"]
    with open(tmp_path / "solve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["evaluation"]) for row in rows] == list(range(1, solution.num_evals + 1))
    assert [row["accepted"] == "1" for row in rows] == solution.track.accepted.tolist()
    assert [float(row["value"]) for row in rows] == solution.track.value.tolist()
    assert [float(row["x"]) for row in rows] == solution.track.points[:, 0].tolist()
    assert all((row["grad_norm"] == "") == (row["accepted"] == "0") for row in rows)
    document = json.loads((tmp_path / "solve.json").read_text())
    assert document["configuration"]["start"] == [-1.2, 1.0]
    assert document["result"]["status"] == "CONVERGED"
    assert document["result"]["params"] == solution.params.tolist()
    assert document["versions"]["jax"] == jax.__version__

    # Of three variables there is another picture, and beside it the older one would lie.
    for name, picture_name in (("adam", "curves.png"), ("lbfgs", "path.png")):
        landscape = TAKEN[name][0]
        names = report.write(tmp_path, setting(landscape, name), landscape, solutions[name])
        assert names == ["solve.csv", "solve.json", picture_name]
        assert {path.name for path in tmp_path.iterdir()} == set(names)
        if name == "adam":
            header = (tmp_path / "solve.csv").read_text().splitlines()[0]
            assert header == "evaluation,accepted,value,grad_norm"


@pytest.mark.parametrize("name", ["lbfgs", "gd", "sgd", "newton"])
def test_the_picture(name, solutions, tmp_path):
    landscape = TAKEN[name][0]
    given, solution = setting(landscape, name), solutions[name]
    figure = picture.picture(given, landscape, solution)
    figure.savefig(tmp_path / "path.png")
    assert matplotlib.image.imread(tmp_path / "path.png").shape == (750, 1200, 4)
    axes = figure.axes[0]
    assert axes.get_title().startswith(f"{name} on {landscape.name}: {solution.num_evals} eval")
    assert axes.get_title().endswith(solution.status.name)
    (path,) = (line for line in axes.lines if line.get_label() == "accepted point")
    points = solution.track.points[solution.track.accepted]
    near = np.abs(points).max(axis=1) < 1e6
    np.testing.assert_array_equal(path.get_xydata()[near], points[near])
    assert len(path.get_xydata()) == len(points)
    for marks in (np.atleast_2d(landscape.x0), landscape.minimizers):
        for (low, high), coordinates in zip(
            (axes.get_xlim(), axes.get_ylim()), marks.T, strict=True
        ):
            assert np.all((low < coordinates) & (coordinates < high))


def test_what_strays_far_does_not_shrink_the_picture(solutions):
    landscape = TAKEN["sgd"][0]
    assert np.max(np.abs(solutions["sgd"].track.points)) > 1e3
    axes = picture.picture(setting(landscape, "sgd"), landscape, solutions["sgd"]).axes[0]
    assert max(map(abs, (*axes.get_xlim(), *axes.get_ylim()))) < 10


def test_a_picture_of_one_point(tmp_path):
    landscape = landscapes.taco_shell()
    given = setting(landscape, "lbfgs", start=(0.0, 0.0))
    solution = experiment.run(landscape, cs231n_optax.lbfgs(), given, silent)
    assert (solution.status, solution.num_evals) == (Status.CONVERGED, 1)
    picture.picture(given, landscape, solution).savefig(tmp_path / "path.png")


@pytest.mark.parametrize("far", [1e200, 1e100, 1e5, 1e-12])
def test_a_picture_of_any_start(far, tmp_path):
    landscape = landscapes.rosenbrock()
    given = setting(landscape, "lbfgs", start=(far, 1.0))
    solution = experiment.run(landscape, cs231n_optax.lbfgs(), given, silent)
    picture.picture(given, landscape, solution).savefig(tmp_path / "path.png")


def test_a_picture_of_a_start_whose_square_underflows(tmp_path):
    landscape = landscapes.taco_shell()
    given = setting(landscape, "lbfgs", start=(1e-300, 1e-300))
    solution = experiment.run(landscape, cs231n_optax.lbfgs(), given, silent)
    picture.picture(given, landscape, solution).savefig(tmp_path / "path.png")


def taken(landscape, values, accepted, points):
    """A solution with these evaluations; the gradient's norm is a tenth of the value."""
    values, accepted = np.array(values), np.array(accepted)
    grad_norm = np.where(accepted, values / 10, np.nan)
    track = experiment.Track(values, grad_norm, accepted, np.array(points))
    status, end = Status.CONVERGED, landscape.minimizers[0]
    return experiment.Solution(status, end, 0.0, 0.0, len(values), 1, 0.0, track)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(("trial", "shown"), [((0.0, 0.5), True), ((900.0, 900.0), False)])
def test_the_legend_names_what_is_in_the_picture(trial, shown):
    landscape = landscapes.taco_shell()
    points = [landscape.x0, trial, (0.0, 0.0)]
    solution = taken(landscape, [100.0, 300.0, 0.0], [True, False, True], points)
    figure = picture.picture(setting(landscape, "lbfgs"), landscape, solution)
    marks = ["accepted point", "rejected trial", "minimum", "start", "end"]
    assert legend(figure) == [mark for mark in marks if shown or mark != "rejected trial"]


@pytest.mark.parametrize("rejected", [True, False])
def test_the_curves(rejected, tmp_path):
    landscape = landscapes.rosenbrock(10)
    values, accepted = [800.0, 900.0, 20.0, 1e-4], [True, not rejected, True, True]
    solution = taken(landscape, values, accepted, np.zeros((4, 0)))
    figure = picture.picture(setting(landscape, "lbfgs"), landscape, solution)
    figure.savefig(tmp_path / "curves.png")
    assert matplotlib.image.imread(tmp_path / "curves.png").shape == (600, 1200, 4)
    left, right = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("f - minimum", "max |∇f|")
    evaluations = [1, 3, 4] if rejected else [1, 2, 3, 4]
    for axes, scale in ((left, 1), (right, 10)):
        drawn = axes.lines[0].get_xydata()
        np.testing.assert_array_equal(drawn[:, 0], evaluations)
        np.testing.assert_allclose(drawn[:, 1], [values[i - 1] / scale for i in evaluations])
    np.testing.assert_allclose(right.lines[1].get_ydata(), 80 * 1e-5)
    marks = ["accepted point", "rejected trial", "--tol"]
    assert legend(figure) == [mark for mark in marks if rejected or mark != "rejected trial"]


def test_curves_of_a_run_that_overflows(solutions, tmp_path):
    landscape = landscapes.rosenbrock(3)
    values = [500.0, 1e20, 1e200, np.inf]
    solution = taken(landscape, values, [True, True, True, False], np.zeros((4, 0)))
    figure = picture.picture(setting(landscape, "sgd"), landscape, solution)
    figure.savefig(tmp_path / "curves.png")
    assert max(figure.axes[0].get_ylim()) <= 1e7
