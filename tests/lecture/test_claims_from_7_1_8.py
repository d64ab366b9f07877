"""Claims of lecture 7-1-8 to 7-1-11: the rules on made-up numbers, and parts of the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cs231n_optax.lecture.claims import claim as claims
from cs231n_optax.lecture.claims import ensembles, lbfgs, learning_rate, orders
from cs231n_optax.problems import datasets

RNG = np.random.default_rng(0)
ALL = ["holds", "holds when", "does not hold here"]


def samples(rows, repeats=10, noise=1e-4):
    """Made-up numbers: the same row for each repeat, with a little noise."""
    rows = np.asarray(rows, float)
    return rows * (1 + noise * RNG.normal(size=(repeats, *rows.shape)))


def answers(verdict, *numbers):
    return [verdict(each).answer.value for each in numbers]


class TestLearningRate:
    # After the first epoch and at the end, from a loss of 2.3: low, good, high, very high.
    FOUR = [1.5, 0.5, 0.4, 5.0], [0.9, 0.1, 0.3, 9.0]
    NO_HIGH = [1.5, 0.5, 0.6, 5.0], [0.9, 0.1, 0.3, 9.0]

    def numbers(self, *models):
        early, late = ([model[i] for model in models] for i in range(2))
        return {
            "rate": np.array([0.01, 0.1, 1.0, 10.0]),
            "first": samples(np.full((2, 4), 2.3)),
            "early": samples(early),
            "late": samples(late),
        }

    def test_regimes(self):
        cases = (
            self.numbers(self.FOUR, self.FOUR),
            self.numbers(self.FOUR, self.NO_HIGH),
            self.numbers(self.NO_HIGH, self.NO_HIGH),
        )
        assert answers(learning_rate.all_regimes, *cases) == ALL
        found, _ = learning_rate.rates_of_regimes(cases[0])
        assert [rates.tolist() for rates in found] == [[0.01], [0.1], [1.0], [10.0]]

    def test_a_run_that_is_no_number_has_a_very_high_rate(self):
        numbers = self.numbers(self.FOUR, self.FOUR)
        numbers["late"][:, 0, 3] = numbers["early"][:, 0, 3] = np.nan
        assert learning_rate.all_regimes(numbers).answer is claims.Answer.HOLDS

    def test_decays(self):
        good, bad = [1.0, 0.5, 0.4, 0.3], [1.0, 0.5, 0.4, 1.2]
        cases = ({"loss": samples(rows)} for rows in ([good, good], [good, bad], [bad, bad]))
        assert answers(learning_rate.decay_helps, *cases) == ALL

    @pytest.mark.parametrize("name", list(learning_rate.DECAYS)[1:])
    def test_decays_end_at_their_part(self, name):
        schedule = learning_rate.DECAYS[name](jnp.array(2.0), jnp.array(1 / 16), 400)
        rates = [float(np.asarray(schedule(step))) for step in (0, 400)]
        np.testing.assert_allclose(rates, [2.0, 2.0 / 16], rtol=1e-5)

    def test_nothing_is_learnt_without_a_step(self):
        model = learning_rate.MODELS["softmax regression"]
        losses = learning_rate.losses_by_epoch(model, 0.0, jax.random.key(0), 2)
        np.testing.assert_array_equal(losses, losses[0])

    def test_training_stays_above_the_lowest_loss(self):
        lowest = learning_rate.lowest_regression_loss()
        model = learning_rate.MODELS["softmax regression"]
        trained = learning_rate.losses_by_epoch(model, 0.1, jax.random.key(0), 3)[-1]
        assert 0.25 < lowest < trained < 0.6


class TestOrders:
    def test_newton(self):
        rows = [[1, 1]] * 5, [[1, 1], [0.2, 1], [0.2, 1], [1, 1], [0, 1]], [[0.2, 1]] * 5
        cases = ({"reached": samples(row)} for row in rows)
        assert answers(orders.always_reaches, *cases) == ALL

    def test_one_step(self):
        kappa = np.array([10.0, 100.0, 1000.0])
        rows = [1e-6, 1e-5, 1e-4], [1e-6, 1e-5, 0.1], [0.1, 0.1, 0.1]
        cases = ({"kappa": kappa, "left": samples(row)} for row in rows)
        assert answers(orders.arrives, *cases) == ALL

    @pytest.mark.parametrize(
        ("rule", "p"),
        [(orders.quadratic_memory, 2), (orders.quadratic_time, 2), (orders.cubic_time, 3)],
    )
    def test_exponents(self, rule, p):
        n = np.array([100.0, 200.0, 400.0, 800.0])
        late = np.maximum(n, 200) ** p
        cases = ({"size": n, "cost": samples(cost)} for cost in (n**p, late, n ** (p - 1)))
        assert answers(rule, *cases) == ALL

    def test_linear_cost(self):
        n, m = np.array([100.0, 200.0, 400.0]), np.array([4.0, 8.0, 16.0])
        cases = (
            {"size": n, "pairs": m, "cost": samples([n**p, n**q, m**p, m**q])}
            for p, q in ((1, 1), (2, 1), (2, 2))
        )
        assert answers(orders.linear, *cases) == ALL

    def test_one_step_is_exact_but_for_rounding(self):
        """The error of a solution is about κ ε in float32 (Golub and Van Loan, section 2.6)."""
        numbers = orders.distances_after_one_step(True)
        left = np.asarray(numbers["left"]).mean(axis=0)
        bound = 30 * numbers["kappa"] * np.finfo(np.float32).eps
        assert np.all(left < bound)
        assert left[-1] > 1e3 * left[0]

    def test_the_hessian_is_in_the_planned_memory(self):
        program = orders.compiled(orders.newton_call(128))
        assert 2 * 4 * 128**2 < orders.planned_bytes(program) < 5 * 4 * 128**2

    def test_lbfgs_keeps_two_vectors_for_each_pair(self):
        def planned(m):
            call = orders.make_call(lambda: orders.cs231n_optax.scale_by_lbfgs(m), 1024)
            return orders.planned_bytes(orders.compiled(call))

        assert planned(12) - planned(4) == pytest.approx(8 * 2 * 4 * 1024, rel=0.2)


class TestLbfgs:
    def test_full_batch(self):
        evals = np.arange(1, 101)
        fast, slow = np.exp(-evals / 5), np.exp(-evals / 50)
        cases = (
            {"loss": samples(np.stack([[first, slow], [second, slow]]), noise=0)}
            for first, second in ((fast, fast), (fast, slow), (slow, slow))
        )
        assert answers(lbfgs.needs_few, *cases) == ALL

    def test_share_of_evaluations(self):
        losses = np.array([[[[4.0, 1.0, 0.5, 0.5], [4.0, 3.0, 2.0, 1.0]]]])
        np.testing.assert_array_equal(lbfgs.share_of_evaluations({"loss": losses}), [[2 / 4]])

    def test_mini_batch(self):
        size = np.array([16, 256])
        rows = [[4, 1], [4, 1]], [[4, 1], [1, 1]], [[1, 1], [1, 1]]
        cases = ({"size": size, "loss": samples(row)} for row in rows)
        assert answers(lbfgs.is_poor, *cases) == ALL

    def test_style_transfer(self):
        evals = np.array([10, 100])
        rows = [[1, 1], [2, 2], [3, 3]], [[1, 3], [2, 2], [3, 3]], [[4, 4], [2, 5], [5, 2]]
        cases = ({"evals": evals, "loss": samples(row)} for row in rows)
        assert answers(lbfgs.is_best, *cases) == ALL

    def test_best_rate_after_each_evaluation(self):
        losses = np.array([[[3.0, 1.0], [2.0, np.nan], [4.0, 0.5]]])
        np.testing.assert_array_equal(lbfgs.best_rate(losses), [[2.0, 0.5]])

    def test_the_loss_of_a_picture_that_has_both(self):
        """A picture that is content and style at once has the loss 0, and another one more."""
        filters = jax.random.normal(jax.random.key(0), (5, 5, 3, 4))
        content, flower = lbfgs.photographs()
        loss = jax.jit(lambda x, pictures: lbfgs.transfer_loss(filters, x, pictures))
        assert loss(content, (content, content)) < 1e-12
        assert loss(content, (content, flower)) > 0.1


class TestEnsembles:
    SIZE = np.array([50, 200, 800])

    def errors(self, *rows):
        return ({"size": self.SIZE, "error": samples(row, noise=1e-3)} for row in rows)

    def test_gain(self):
        cases = self.errors([[10, 8]] * 3, [[10, 8], [10, 9.5], [10, 9.7]], [[10, 9.9]] * 3)
        assert answers(ensembles.two_points, *cases) == ALL

    def test_snapshots(self):
        cases = self.errors([[10, 8, 7]] * 3, [[10, 8, 7]] + [[10, 11, 7]] * 2, [[10, 11, 7]] * 3)
        assert answers(ensembles.snapshots_gain, *cases) == ALL

    def test_cycles(self):
        cases = (
            {
                "rate": np.array([0.1, 1.0]),
                "barrier": samples(barrier),
                "error": samples(error),
                "single": samples([4.0, 4.0]),
            }
            for barrier, error in (([1, 1], [4, 4]), ([0.01, 1], [4, 4]), ([0.01, 1], [4, 9]))
        )
        assert answers(ensembles.different_and_good, *cases) == ALL

    def test_average(self):
        good, bad = [[4.0, 3.0]] * 2, [[4.0, 4.1]] * 2
        rate = np.array([0.1, 1.0])
        cases = (
            {"rate": rate, "error": samples(rows)}
            for rows in ([good, good], [good, bad], [bad, bad])
        )
        assert answers(ensembles.average_helps, *cases) == ALL

    def test_stall(self):
        step = 100 * np.arange(1, 21)
        falling, flat = np.exp(-step / 500), np.full(20, 5.0)
        cases = (
            {
                "size": np.array([50, 800]),
                "step": step,
                "loss": samples([falling, falling]),
                "error": samples([first, second]),
            }
            for first, second in (
                (flat, flat),
                (flat, 10 * falling),
                (10 * falling, 10 * falling),
            )
        )
        assert answers(ensembles.test_error_stalls, *cases) == ALL

    def test_images_of_the_split_are_in_one_set_only(self):
        for size in ensembles.SIZES:
            parts = ensembles.split(int(size))
            rows = [{x.tobytes() for x in np.asarray(part[0])} for part in parts]
            assert len(rows[0]) <= size
            assert len(parts.train[0]) == 800
            known = {x.tobytes() for x in datasets.digits().x_test}
            assert rows[2] == known
            assert not rows[0] & rows[1]

    def test_error_of_equal_members_is_that_of_each(self):
        params = ensembles.NET.init(jax.random.key(0))
        members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
        test = ensembles.split(50).test
        each = ensembles.errors_of_each(members, test)
        np.testing.assert_allclose(each, ensembles.error(members, test))
