"""`progress_bar` with each loop: what it shows, and when it is closed."""

import builtins
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax as co

tqdm = pytest.importorskip("tqdm.auto", reason="needs pip install tqdm")


class FitState(NamedTuple):
    nonfinite_step: Any


class FitProgress(NamedTuple):
    """What `fit` reports after a chunk."""

    step: Any
    loss: Any
    grad_norm: Any
    state: FitState
    num_steps: int


class SweepProgress(NamedTuple):
    """What `sweep` reports after a batch."""

    num_finished: int
    num_rows: int


class Bar(tqdm.tqdm):
    """A bar that is drawn into a string, at every call."""

    made: list["Bar"]

    def __init__(self, *args, **options):
        self.drawn, self.closed = io.StringIO(), False
        super().__init__(*args, **options, file=self.drawn, ascii=True, mininterval=0)
        self.made.append(self)

    def close(self):
        super().close()
        self.closed = True

    @property
    def last(self):
        """What is left of it on the screen."""
        return self.drawn.getvalue().split("\r")[-1]


@pytest.fixture
def bars(monkeypatch):
    """All bars, in the order in which they were made."""
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [], raising=False)
    return Bar.made


def bowl(x):
    return jnp.sum((x - 1) ** 2 + (x - 1) ** 4)


def minimize(x0=(3.0, 2.0), **options):
    return co.minimize(bowl, jnp.array(x0), co.lbfgs(), **options)


def fit_reports(first, last, num_steps, nonfinite_step=-1):
    """The reports of chunks of ten steps."""
    for begin in range(first, last, 10):
        step = np.arange(begin, begin + 10)
        loss = 1 / (1 + np.float32(step))
        yield FitProgress(step, loss, 2 * loss, FitState(nonfinite_step), num_steps)


class TestMinimize:
    def test_shows_the_value_and_the_gradient(self, bars):
        reports = []

        def callback(progress):
            reports.append(progress)
            assert bars[0].n == progress.num_evals  # drawn before
            assert not bars[0].closed

        result = minimize(callback=co.progress_bar(callback))
        (bar,) = bars
        assert bar.closed
        assert len(reports) == bar.n == result.num_evals
        text = (
            f"value {float(result.value):.3e}, grad_norm {float(result.grad_norm):.3e}, CONVERGED"
        )
        assert text in bar.last
        assert f"100%|##########| {bar.n}/{bar.n} " in bar.last

    def test_a_run_that_is_not_successful_is_not_full(self, bars):
        minimize(max_evals=3, callback=co.progress_bar())
        minimize((np.nan, 1.0), max_evals=10, callback=co.progress_bar())
        assert [(bar.n, bar.total, bar.closed) for bar in bars] == [(3, 3, True), (1, 10, True)]
        assert "FAILED" in bars[1].last

    @pytest.mark.parametrize("jit", [False, True])
    def test_a_stop_closes_it(self, bars, jit):
        def solve(x0):
            return minimize(x0, callback=co.progress_bar(lambda p: p.num_evals == 2))

        result = (jax.jit(solve) if jit else solve)((3.0, 2.0))
        assert (co.Status(int(result.status)), result.num_evals) == (co.Status.STOPPED, 2)
        (bar,) = bars
        assert (bar.n, bar.total, bar.closed) == (2, 2, True)

    def test_an_exception_closes_it(self, bars):
        def fail(progress):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            minimize(callback=co.progress_bar(fail))
        (bar,) = bars
        assert (bar.n, bar.total, bar.closed) == (1, 1000, True)

    def test_one_callback_for_several_runs(self, bars):
        callback = co.progress_bar()
        for _ in range(2):
            minimize(callback=callback)
        solve = jax.jit(lambda x0: minimize(x0, callback=callback))
        for x0 in ((3.0, 2.0), (2.0, 3.0)):
            jax.block_until_ready(solve(x0))
        jax.effects_barrier()
        assert len(bars) == 4
        assert all(bar.closed and bar.n == bar.total > 3 for bar in bars)

    def test_composed_by_hand(self, bars):
        draw = co.progress_bar()
        minimize(callback=lambda progress: draw(progress) or progress.num_evals == 2)
        assert bars[0].n == 2


class TestFit:
    def test_a_run_in_chunks(self, bars):
        callback = co.progress_bar()
        for report in fit_reports(0, 50, 50):
            assert callback(report) is None
        (bar,) = bars
        assert (bar.n, bar.total, bar.closed) == (50, 50, True)
        assert "loss 2.000e-02, grad_norm 4.000e-02" in bar.last

    def test_a_continued_run_counts_its_own_steps(self, bars):
        callback = co.progress_bar()
        for report in (*fit_reports(0, 30, 30), *fit_reports(30, 50, 20)):
            callback(report)
        assert [(bar.n, bar.total, bar.closed) for bar in bars] == [(30, 30, True), (20, 20, True)]

    def test_a_run_that_nobody_ended_is_closed_by_the_next(self, bars):
        callback = co.progress_bar()
        for report in (*fit_reports(0, 30, 100), *fit_reports(0, 20, 20)):
            callback(report)
        assert [(bar.n, bar.total, bar.closed) for bar in bars] == [(30, 100, True), (20, 20, True)]

    def test_a_loss_that_is_not_finite_closes_it(self, bars):
        callback = co.progress_bar()
        for report in fit_reports(0, 20, 100, nonfinite_step=15):
            callback(report)
        assert bars[0].closed
        assert bars[0].total == 100

    def test_a_stop_closes_it(self, bars):
        callback = co.progress_bar(lambda progress: progress.loss[-1] < 0.06)
        stops = [callback(report) for report in fit_reports(0, 30, 100)]
        assert stops == [False, True, True]
        assert [(bar.n, bar.closed) for bar in bars] == [(20, True), (10, True)]


class TestSweep:
    def test_rows(self, bars):
        callback = co.progress_bar()
        for num_finished in (2, 5, 8):  # two of them from an earlier sweep
            callback(SweepProgress(num_finished, 8))
        (bar,) = bars
        assert (bar.initial, bar.n, bar.total, bar.closed) == (2, 8, 8, True)
        assert "8/8" in bar.last


def rounds(*ended, value=(3.0, np.nan, np.inf, 2.0), num_runs=4):
    """The reports of rounds of a batch, by the runs that have ended."""
    for i, num_ended in enumerate(ended):
        yield co.MinimizeBatchProgress(
            num_ended, num_runs, 10 * (i + 1), 1.0 * i, np.zeros(4), np.array(value)
        )


class TestMinimizeBatch:
    def test_runs(self, bars):
        callback = co.progress_bar()
        for report in rounds(0, 0, 1, 3, 3, 4):
            assert callback(report) is None
        (bar,) = bars
        assert (bar.initial, bar.n, bar.total, bar.closed) == (0, 4, 4, True)
        assert "least value 2.000e+00, 60 evaluations" in bar.last

    def test_a_batch_without_a_finite_value(self, bars):
        callback = co.progress_bar()
        for report in rounds(1, 4, value=[np.nan] * 4):
            callback(report)
        assert bars[0].closed
        assert "inf" in bars[0].last

    def test_a_stop_closes_it(self, bars):
        result = co.minimize_batch(
            bowl,
            np.arange(6.0, dtype=np.float32)[:, None],
            co.sgd(0.01),
            evals_per_round=5,
            callback=co.progress_bar(lambda progress: progress.num_evals > 20),
        )
        assert co.Status.STOPPED in result.status
        (bar,) = bars
        assert bar.closed
        assert bar.n == bar.total == (np.asarray(result.status) != co.Status.STOPPED).sum()


def test_without_tqdm(monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install tqdm"):
        co.progress_bar()


def test_bad_callback():
    with pytest.raises(TypeError, match="callback"):
        co.progress_bar(3)
