"""Claims of lecture 7-1-3 and 7-1-4: the rules on made-up numbers, and parts of the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax.lecture.claims import adagrad, momentum
from cs231n_optax.lecture.claims.learning_rate import MODELS
from cs231n_optax.problems import landscapes

RNG = np.random.default_rng(0)
ALL = ["holds", "holds when", "does not hold here"]


def samples(rows, repeats=10, noise=1e-4):
    """Made-up numbers: the same row for each repeat, with a little noise."""
    rows = np.asarray(rows, float)
    return rows * (1 + noise * RNG.normal(size=(repeats, *rows.shape)))


def answers(verdict, *numbers):
    return [verdict(each).answer.value for each in numbers]


class TestLeaves:
    def test_rule(self):
        leaves, stays = [0, 0, 0.5, 1, 1, 1], [0, 0, 0, 0.5, 1, 1]
        cases = (
            {"rho": momentum.RHOS, "left": samples([first] + [other] * 4)}
            for first, other in ((leaves, leaves), (leaves, stays), (stays, stays))
        )
        assert answers(momentum.leaves, *cases) == ALL

    def test_what_sgd_leaves_is_no_stop(self):
        numbers = {"rho": momentum.RHOS, "left": samples(np.ones((5, 6)))}
        assert answers(momentum.leaves, numbers) == ALL[2:]

    @pytest.mark.parametrize("stop", momentum.STOPS.values(), ids=list(momentum.STOPS))
    def test_starts_have_not_left(self, stop):
        assert not stop.has_left(jnp.array(stop.low))
        assert not stop.has_left(jnp.array(stop.high))


class TestVelocity:
    def test_terminal(self):
        last = [[1, 1]] * 3, [[1, 1], [1, 1], [1, 0.9]], [[0.9, 1]] * 3
        cases = ({"rho": np.array([0.5, 0.9, 0.99]), "last": samples(row)} for row in last)
        assert answers(momentum.is_terminal, *cases) == ALL

    def test_the_velocity_is_a_geometric_sum(self):
        numbers = momentum.terminal_velocities(True)
        expected = 1 - numbers["rho"][:, None] ** numbers["step"]
        curve = np.asarray(numbers["curve"])[:, :, 0]
        np.testing.assert_allclose(curve, np.broadcast_to(expected, curve.shape), rtol=2e-4)

    def test_weighted_sum(self):
        rhos = np.array([0.5, 0.9, 0.99])
        powers = rhos[:, None] ** np.arange(30)
        one = np.where(rhos[:, None] < 0.6, powers, 1)
        cases = (
            {"rho": rhos, "weight": samples(w), "part_left": samples([1e-6] * 3)}
            for w in (powers, one, np.ones_like(powers))
        )
        assert answers(momentum.are_powers, *cases) == ALL

    def test_a_sum_that_leaves_a_rest_is_none(self):
        rhos = np.array([0.5, 0.9, 0.99])
        weights = samples(rhos[:, None] ** np.arange(30))
        numbers = {"rho": rhos, "weight": weights, "part_left": samples([0.1] * 3)}
        assert answers(momentum.are_powers, numbers) == ALL[2:]


class TestNesterov:
    def test_forms(self):
        rows = [[5] * 4] * 2, [[5] * 4, [5, 5, 5, 1e6]], [[1e6] * 4, [5] * 4]
        cases = ({"apart": samples(row)} for row in rows)
        assert answers(momentum.forms_agree, *cases) == ALL

    def test_forms_are_one_rule(self):
        """Ten steps of both: a difference of some rounding errors."""
        objective = momentum.OBJECTIVES["Himmelblau's function"]
        assert 0 < momentum.difference_of_forms(objective, jax.random.key(0), 10) < 100

    def test_overshoot_rule(self):
        def numbers(nesterov):
            found = np.array([[np.full((2, 5), 0.5), row] for row in nesterov])
            return {"rho": momentum.TYPICAL, "overshoot": samples(found)}

        less, once_more = np.full((2, 5), 0.4), np.full((2, 5), 0.4)
        once_more[:, 3] = 0.6
        cases = [less] * 3, [less, less, once_more], [once_more] * 3
        assert answers(momentum.less_by_nesterov, *map(numbers, cases)) == ALL

    @pytest.mark.parametrize("rho", [0.9, 0.99])
    def test_overshoot_on_a_quadratic(self, rho):
        """The original form of both methods, in NumPy, on x²/2 from 1 with α = 0.1."""
        well = momentum.WELLS["x²/2"]
        for name, ahead in (("momentum", 0), ("nesterov", rho)):
            x, v, path = 1.0, 0.0, []
            for _ in range(400):
                v = rho * v - 0.1 * (x + ahead * v)
                x += v
                path.append(-x)
            found = momentum.overshoot(well, name, rho, 0.1, jax.random.key(0))
            np.testing.assert_allclose(found, max(path), rtol=1e-4)


class TestRho:
    def test_rule(self):
        good, bad, slow = [1, 0.6, 0.5, 0.4, 0.5, 1], [1, 0.2, 0.3, 0.4, 0.5, 1], [1] * 6
        rows = [good] * 5, [good, bad, slow, good, good], [bad] * 4 + [slow]
        cases = (
            {"rho": momentum.RHOS, "steps": np.stack([samples(x) for x in row], axis=1)}
            for row in rows
        )
        assert answers(momentum.is_good, *cases) == ALL

    def test_steps_to(self):
        losses = np.array([[4.0, 2.0, 1.0, 0.5], [4.0, np.nan, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
        np.testing.assert_array_equal(momentum.steps_to(losses, np.full(3, 2.0)), [0.5, 1, 0.25])

    def test_steps_to_match_the_best_sgd(self):
        curve = 0.5 ** np.arange(1, 9)
        sgd = np.stack([np.full(8, np.nan), np.ones(8), curve])
        other = np.stack([curve**4, curve**2, np.ones(8)])
        losses = np.broadcast_to(np.stack([sgd, other]), (5, 2, 3, 8))
        steps, best = momentum.steps_to_match(losses, 3)
        np.testing.assert_array_equal(best, [2, 0])
        np.testing.assert_array_equal(steps, [[1, 2 / 8]] * 2)

    @pytest.mark.parametrize("turned", [False, True])
    def test_quadratics_have_their_condition_number(self, turned):
        """At α = 1/κ each error shrinks by at least 1 - 1/κ; the slowest remains."""
        losses = momentum.quadratic(10, 300, turned=turned)
        found = np.asarray(losses(cs231n_optax.sgd(0.1), jax.random.key(0)))
        assert np.all(found[1:] <= 0.9**2 * found[:-1] * (1 + 1e-5))
        assert found[-1] / found[-2] == pytest.approx(0.9**2, rel=0.01)

    def test_lowest(self):
        assert momentum.lowest(landscapes.taco_shell(100)) == pytest.approx(0, abs=1e-9)

    def test_digits_without_a_step_stay_at_the_first_loss(self):
        losses = momentum.digits(MODELS["a perceptron"], 0.0, 1)
        found = losses(cs231n_optax.sgd(0.0), jax.random.key(0))
        assert found.shape == (4,)
        np.testing.assert_array_equal(found, found[0])


class TestEqualises:
    def test_rule(self):
        sgd, adagrad_, lags = [0.1, 1], [0.5, 0.5], [0.1, 0.5]
        rows = [[sgd, adagrad_]] * 3, [[sgd, adagrad_]] + [[sgd, lags]] * 2, [[sgd, lags]] * 3
        cases = (
            {"angle": np.array([0, 1, 45]), "progress": samples(np.array(row)[:, None])}
            for row in rows
        )
        assert answers(adagrad.equalises, *cases) == ALL

    def test_what_sgd_balances_needs_no_adagrad(self):
        progress = samples(np.full((2, 3, 2, 2), 0.5))
        assert answers(adagrad.equalises, {"angle": [0, 1], "progress": progress}) == ALL[2:]

    def test_sgd_makes_the_progress_of_the_closed_form(self):
        numbers = adagrad.progress_by_direction(True)
        found = np.asarray(numbers["progress"])[:, 0, :, 0]
        expected = 1 - (1 - 1 / numbers["kappa"]) ** 10
        np.testing.assert_allclose(found[..., 0], [expected] * len(found), rtol=1e-3)
        np.testing.assert_allclose(found[..., 1], 1, rtol=1e-5)

    def test_rotation(self):
        np.testing.assert_allclose(adagrad.rotation(90.0), [[0, -1], [1, 0]], atol=1e-6)


class TestStep:
    def test_rule(self):
        step = np.array([10.0, 100.0, 1000.0])
        root, fast = step**-0.5, step**-1.0
        cases = (
            {"step": step, "size": samples([first] + [other] * 3)}
            for first, other in ((root, root), (root, fast), (fast, fast))
        )
        assert answers(adagrad.falls_as_root, *cases) == ALL

    def test_under_a_constant_gradient_it_is_that_of_the_closed_form(self, monkeypatch):
        constant = adagrad.Descent(
            lambda key: jnp.zeros(3), lambda x, g: g, lambda key: jnp.array([1.0, 20.0, -3.0]), 0.5
        )
        monkeypatch.setattr(adagrad, "DESCENTS", {"constant": constant})
        found = adagrad.step_sizes(True)["size"][:, 0]
        expected = [np.mean(np.arange(n, 2 * n) ** -0.5) for n in adagrad.OCTAVES[:-2]]
        np.testing.assert_allclose(found, [expected] * len(found), rtol=1e-4)


class TestConvex:
    def test_rule(self):
        good, bad = [1, 0.3, 0.7], [1, 0.3, 1]
        rows = [good] * 4, [good, bad, bad, good], [bad] * 4
        cases = ({"steps": samples(row)} for row in rows)
        assert answers(adagrad.is_useful, *cases) == ALL


class TestSaddle:
    def test_rule(self):
        """The steps of SGD, momentum, AdaGrad and RMSProp at the better one of two rates."""
        stuck, slow = [2000, 90, 1000, 50], [2000, 90, 200, 50]
        best = np.tile([0, 1, 0, 1], (3, 1))

        def numbers(*rows):
            steps = samples(rows)[..., None] * np.where(best[..., None] == [0, 1], 1, 3)
            return {"best": best, "steps": steps}

        cases = numbers(stuck, stuck, stuck), numbers(stuck, slow, slow), numbers(slow, slow, slow)
        assert answers(adagrad.is_stuck, *cases) == ALL

    def test_steps_are_those_of_the_closed_form(self):
        """SGD multiplies x by 1 - 2 α on x²: from 1, it is below 0.01 when that power is."""
        rates = jnp.array([0.1, 0.25])
        starts = jnp.ones((1, 1)), jnp.zeros((1, 1))
        found = adagrad.steps_to_pass(
            lambda x, _: jnp.sum(x**2), 0.01, cs231n_optax.sgd, rates, starts
        )
        np.testing.assert_array_equal(found, [np.ceil(np.log(0.1) / np.log([0.8, 0.5]))])

    def test_network(self):
        """A has the singular values, zero weights are a saddle, and the SVD solves it."""
        weights, target = adagrad.small_weights(jax.random.key(0))
        u, values, v = np.linalg.svd(target)
        np.testing.assert_allclose(values, [3, 1, 0.3, 0, 0], atol=1e-5)
        gradient = jax.grad(adagrad.linear_network)
        np.testing.assert_array_equal(gradient(jnp.zeros(50), target), 0)
        solution = jnp.asarray(np.stack([u * values, v]).ravel())
        assert adagrad.linear_network(solution, target) < 1e-9
        assert adagrad.linear_network(weights, target) == pytest.approx(3**2 + 1 + 0.09, rel=0.01)
