"""The claims of the lecture: statistics, rules on made-up numbers, experiments, and the runner."""

import json

import numpy as np
import pytest
from scipy import stats

from cs231n_optax.experiments.errors import InputError
from cs231n_optax.lecture.claims import claim as claims
from cs231n_optax.lecture.claims import problem_a, problem_c, report
from cs231n_optax.lecture.claims import run as runner
from cs231n_optax.lecture.claims.catalog import CLAIMS
from cs231n_optax.lecture.claims.claim import Answer, Claim, Estimate, Verdict

RNG = np.random.default_rng(0)


class TestStatistics:
    def test_mean(self):
        x = RNG.normal(3, 2, (40, 3))
        found = claims.mean(x)
        np.testing.assert_allclose(found.value, x.mean(axis=0))
        np.testing.assert_allclose(found.error, stats.sem(x, axis=0))

    def test_ratio_has_the_error_of_the_delta_method(self):
        x, y = RNG.normal(3, 0.1, 500), RNG.normal(2, 0.1, 500)
        found = claims.ratio(x, y)
        variance = np.var(x) / 3**2 + np.var(y) / 2**2 - 2 * np.cov(x, y)[0, 1] / 6
        assert found.value == pytest.approx(x.mean() / y.mean())
        assert found.error == pytest.approx(1.5 * np.sqrt(variance / 500), rel=0.02)

    def test_slope_is_that_of_scipy(self):
        x = np.array([1.0, 3.0, 10.0, 20.0])
        y = 5 * x**-0.5 * np.exp(0.1 * RNG.normal(size=(10, 4)))
        fits = [np.asarray(stats.linregress(np.log(x), np.log(row)))[0] for row in y]
        found = claims.slope(x, y)
        assert found.value == pytest.approx(np.mean(fits))
        assert found.error == pytest.approx(stats.sem(fits))

    def test_comparisons_ask_for_three_standard_errors(self):
        estimate = Estimate(1.0, 0.1)
        assert claims.is_above(estimate, 0.69)
        assert not claims.is_above(estimate, 0.71)
        assert claims.is_below(estimate, 1.31)
        assert not claims.is_below(estimate, 1.29)
        assert claims.is_within(estimate, 1.1, 0.41)
        assert not claims.is_within(estimate, 1.1, 0.39)

    def test_nothing_is_clear_about_nan(self):
        for compare in (claims.is_above, claims.is_below):
            assert not compare(claims.mean([1.0, np.nan]), 0.5)
        assert not claims.is_within(claims.mean([1.0, np.nan]), 1, 10)

    @pytest.mark.parametrize(
        ("value", "error", "text"),
        [
            (3.16228, 0.0123, "3.162 ± 0.012"),
            (1234.5, 56.0, "1234 ± 56"),
            (2.5e-7, 1e-8, "(2.50 ± 0.10) · 10^-7"),
            (1.0, 0.0, "1"),
            (0.0, 0.0, "0"),
            (np.nan, 1.0, "not finite"),
        ],
    )
    def test_text(self, value, error, text):
        assert str(Estimate(value, error)) == text


class TestVerdicts:
    def test_by_case(self):
        assert claims.by_case("ab", [True, True]) == Verdict(Answer.HOLDS)
        assert claims.by_case("ab", [False, False]) == Verdict(Answer.FAILS)
        assert str(claims.by_case("abc", [True, False, True])) == "holds when a, or c"

    def test_by_value_is_a_bound_where_it_can_be(self):
        values = [1.0, 2.0, 4.0]
        assert str(claims.by_value("x", values, [True, True, True])) == "holds"
        assert str(claims.by_value("x", values, [False, False, False])) == "does not hold here"
        for holds, text in (
            ([True, True, False], "x <= 2 (tried: 1, 2, 4)"),
            ([False, True, True], "x >= 2 (tried: 1, 2, 4)"),
            ([True, False, True], "x = 1, 4 (tried: 1, 2, 4)"),
        ):
            assert claims.by_value("x", values, holds) == Verdict(Answer.HOLDS_WHEN, text)


def samples(rows, repeats=10, noise=1e-4):
    """Made-up numbers: the same row for each repeat, with a little noise."""
    rows = np.asarray(rows, float)
    return rows * (1 + noise * RNG.normal(size=(repeats, *rows.shape)))


def answers(verdict, *numbers):
    return [verdict(each).answer.value for each in numbers]


ALL = ["holds", "holds when", "does not hold here"]


class TestProblemA:
    def test_exponents(self):
        kappa = np.array([10.0, 100.0, 1000.0, 10000.0])
        late = np.where(kappa < 100, 100, kappa)
        for rule, p in ((problem_a.proportional, 1), (problem_a.root_proportional, 0.5)):
            cases = ({"kappa": kappa, "evals": samples(x)} for x in (kappa**p, late**p, kappa**2))
            assert answers(rule, *cases) == ALL

    def test_jitter(self):
        def numbers(steep, shallow):
            flips = samples([[0, x] for x in steep])
            progress = samples([[x, 1] for x in shallow])
            return {"part": np.array([0.2, 0.9]), "flips": flips, "progress": progress}

        cases = numbers([1, 1], [0.1, 0.2]), numbers([0, 1], [0.1, 0.2]), numbers([1, 1], [0.7, 1])
        assert answers(problem_a.jitters_and_creeps, *cases) == ALL

    def test_growth(self):
        n = np.array([4.0, 16.0, 48.0])
        kappa = {p: n**p for p in (0, 1)}
        cases = (
            {"size": n, "kappa": samples(np.stack([kappa[p] for p in powers], axis=-1))}
            for powers in ((1, 1, 1), (1, 0, 1), (0, 0, 0))
        )
        assert answers(problem_a.grows, *cases) == ALL

    def test_sgd_takes_as_many_evaluations_as_the_closed_form(self):
        """At the best rate each direction shrinks by (κ - 1) / (κ + 1) or faster."""
        numbers = problem_a.sgd_evaluations(True)
        steps = np.log(1000) / np.log((numbers["kappa"] + 1) / (numbers["kappa"] - 1))
        evals = np.asarray(numbers["evals"])
        assert np.all(evals <= steps + 2)
        assert np.all(evals.mean(axis=0) > 0.8 * steps)


def test_runs_that_never_reach_a_target_are_a_lower_bound():
    steps = np.array([[4000.0, 130.0], [4000.0, 140.0]])
    numbers = {"target": np.array([1e-4, 0.1]), "batch": steps, "full": np.full((2, 2), 100.0)}
    text = problem_c.targets_figure(numbers)
    assert "at least 40 to 0.0001" in text
    assert "at least 1.3" not in text


class TestRunner:
    @pytest.fixture
    def counted(self, monkeypatch):
        """Two claims whose experiments are counted; the second one can be interrupted."""
        calls = []

        def make(name):
            def experiment(quick):
                """Return fixed numbers."""
                calls.append(name)
                if "interrupt" in calls and name == "second":
                    raise KeyboardInterrupt
                return {"x": np.array([1.0, 2.0, np.inf])}

            def rule(numbers):
                """Holds if the first number is above zero."""
                return claims.by_case(["x"], [numbers["x"][0] > 0])

            def draw(numbers):
                figure, _ = report_figure()
                return figure

            return Claim(name, "7-1-1", "A | claim.", experiment, rule, lambda _: "1 ± 1", draw)

        from cs231n_optax.lecture.claims.picture import new_picture as report_figure

        monkeypatch.setattr(runner, "CLAIMS", (make("first"), make("second")))
        return calls

    def test_goes_on_after_an_interruption(self, counted, tmp_path, capsys):
        out = tmp_path / "out"
        counted.append("interrupt")
        assert runner.run(out, quiet=True) == 130
        assert "not finished: second" in capsys.readouterr().err
        written = json.loads((out / "claims.json").read_text())
        assert [claim["name"] for claim in written["claims"]] == ["first"]

        counted.clear()
        assert runner.run(out, quiet=True) == 0
        assert counted == ["second"]
        written = json.loads((out / "claims.json").read_text())
        assert [claim["name"] for claim in written["claims"]] == ["first", "second"]

        counted.clear()
        assert runner.run(out, quiet=True) == 0
        assert counted == []

    def test_another_size_or_a_broken_file_is_measured_again(self, counted, tmp_path):
        runner.run(tmp_path, quiet=True)
        (tmp_path / "results" / "first.json").write_text("{")
        counted.clear()
        runner.run(tmp_path, quiet=True)
        assert counted == ["first"]
        runner.run(tmp_path, quick=True, names=["second"], quiet=True)
        assert counted == ["first", "second"]

    def test_report(self, counted, tmp_path, capsys):
        assert runner.run(tmp_path, names=["first"]) == 0
        printed = capsys.readouterr().out
        assert "A | claim." in printed
        assert "1 ± 1" in printed
        assert (tmp_path / "pictures" / "first.png").read_bytes().startswith(b"\x89PNG")
        record = json.loads((tmp_path / "claims.json").read_text())["claims"][0]
        assert record["experiment"] == "Return fixed numbers."
        assert record["rule"] == "Holds if the first number is above zero."
        assert record["verdict"] == {"answer": "holds", "condition": ""}
        assert "1 ± 1" in (tmp_path / "claims.md").read_text()
        numbers = json.loads((tmp_path / "results" / "first.json").read_text())["numbers"]
        assert numbers == {"x": [1.0, 2.0, None]}

    def test_unknown_name(self, counted, tmp_path):
        with pytest.raises(InputError, match="third"):
            runner.run(tmp_path / "out", names=["third"])
        assert not (tmp_path / "out").exists()


def test_catalog():
    names = [claim.name for claim in CLAIMS]
    assert len(set(names)) == len(names)
    for claim in CLAIMS:
        assert report.text(claim.experiment)
        assert report.text(claim.verdict)
        assert claim.statement.endswith(".")
