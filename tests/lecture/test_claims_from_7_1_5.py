"""Claims of lecture 7-1-5 to 7-1-7: the rules on made-up numbers, and parts of the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax.lecture.claims import adam, rmsprop
from cs231n_optax.lecture.claims.learning_rate import Model

RNG = np.random.default_rng(0)
ALL = ["holds", "holds when", "does not hold here"]
ONES = jnp.ones((64, 100))
"""Data on which `rmsprop.SLOPE` has the gradient 1 / 100 · 1 without noise."""


def samples(rows, repeats=10, noise=1e-4):
    """Made-up numbers: the same row for each repeat, with a little noise."""
    rows = np.asarray(rows, float)
    return rows * (1 + noise * RNG.normal(size=(repeats, *rows.shape)))


def answers(verdict, *numbers):
    return [verdict(each).answer.value for each in numbers]


def bowl():
    """½ |x|² in three dimensions from (1, 1, 1), the same for all data."""
    return Model(lambda key: jnp.ones(3), lambda params, batch: jnp.sum(params**2) / 2)


class TestRmsprop:
    def test_keeps_moving(self):
        t = np.array([50.0, 100.0, 200.0])
        good, bad = [t**0, t**-0.5], [t**-0.5, t**-0.5]
        rows = [good] * 3, [good, bad, good], [bad] * 3
        cases = ({"t": t, "length": samples(row)} for row in rows)
        assert answers(rmsprop.keeps_moving, *cases) == ALL

    def test_becomes_slow(self):
        """RMSProp's rows of (early, late) for three rates; AdaGrad's do not matter."""
        fast, slow, once = [[1, 0.9]] * 3, [[1, 0.1]] * 3, [[1, 0.9], [1, 0.1], [1, 0.1]]
        cases = (
            {
                "rate": rmsprop.SCALES,
                "steps": samples([[steps, slow]] * 2),
                "falls": samples([[falls, slow]] * 2),
            }
            for steps, falls in ((slow, slow), (fast, slow), (fast, once))
        )
        assert answers(rmsprop.always_slow, *cases) == ALL

    def test_training_is_gradient_descent(self):
        """SGD on ½ |x|²: x ← (1 - α) x."""
        losses, lengths = rmsprop.train(
            bowl(), cs231n_optax.sgd(0.1), ONES, jax.random.key(0), steps=20, looks=4
        )
        np.testing.assert_allclose(losses, 1.5 * 0.9 ** (2 * np.arange(0, 21, 5)), rtol=1e-5)
        np.testing.assert_allclose(lengths, 0.1 * 0.9 ** np.arange(20), rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "length"),
        [
            ("adagrad", lambda t: 1 / np.sqrt(t)),
            ("rmsprop", lambda t: 1 / np.sqrt(1 - 0.9**t)),
        ],
    )
    def test_steps_on_a_slope_without_noise(self, name, length):
        index = list(rmsprop.METHODS).index(name)
        tx = rmsprop.one_of([make(0.01) for make in rmsprop.METHODS.values()], jnp.array(index))
        _, lengths = rmsprop.train(rmsprop.SLOPE, tx, ONES, jax.random.key(0), steps=100)
        np.testing.assert_allclose(lengths / 0.01, length(np.arange(1, 101)), rtol=1e-4)


class TestAdam:
    SIZE = np.array([1e-8, 1e-4, 1.0])

    @pytest.mark.parametrize(
        ("rule", "right"), [(adam.is_root_of_ten, 10**0.5), (adam.is_rate, 1.0)]
    )
    def test_first_step(self, rule, right):
        rows = [right] * 3, [0.1, right, right], [0.1] * 3
        cases = ({"size": self.SIZE, "step": samples(row)} for row in rows)
        assert answers(rule, *cases) == ALL

    @pytest.mark.parametrize("bias_correction", [False, True])
    def test_mean_first_step(self, bias_correction):
        """The mean of a |g| / (|g| + ε / b) for log₁₀ |g| that is uniform within a decade."""
        scale, eps = (1, 1e-7) if bias_correction else (10**0.5, 1e-7 * 1000**0.5)
        numbers = adam.first_steps(bias_correction=bias_correction, quick=True)
        size = numbers["size"]
        expected = scale * np.log10((size * 10**0.5 + eps) / (size / 10**0.5 + eps))
        np.testing.assert_allclose(np.asarray(numbers["step"]).mean(axis=0), expected, rtol=0.02)

    def test_large_steps(self):
        rows = [[4, 1]] * 3, [[0.5, 1], [4, 1], [4, 1]], [[0.5, 1]] * 3
        cases = ({"b2": np.array([0.9, 0.99, 0.999]), "first": samples(row)} for row in rows)
        assert answers(adam.very_large, *cases) == ALL

    def test_steps_without_correction_on_a_slope(self):
        """For a constant gradient the correction divides by (1 - β₁ᵗ) / √(1 - β₂ᵗ)."""
        lengths = [
            rmsprop.train(rmsprop.SLOPE, make(1e-3), ONES, jax.random.key(0), steps=50)[1]
            for make in (adam.UNCORRECTED, cs231n_optax.adam)
        ]
        t = np.arange(1, 51)
        expected = (1 - 0.9**t) / np.sqrt(1 - 0.999**t)
        np.testing.assert_allclose(lengths[0] / lengths[1], expected, rtol=1e-3)
        np.testing.assert_allclose(lengths[1], 1e-3, rtol=1e-3)

    def test_hurts(self):
        worse, better = [[1.2, 1]] * 2, [[0.8, 1]] * 2
        rows = [worse] * 4, [worse, better] * 2, [better] * 4
        cases = ({"loss": samples(row)} for row in rows)
        assert answers(adam.hurts, *cases) == ALL

    def test_good_start(self):
        """From a loss of 2; the best tuned one is 0.1 and the last two are Adam's, untuned."""
        good = [1.0, 1.0, 1.0, 0.1, 0.1, 0.2, 0.5]
        far, behind = [1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5], [0.1, 0.1, 0.1, 1.0, 1.0, 0.2, 0.2]
        tasks = len(adam.TASKS)

        def numbers(*after):
            return {
                "steps": np.array([100, 1000]),
                "first": samples([2.0] * tasks),
                "tuned": samples([[[0.1] * 6] * 2] * tasks),
                "untuned": samples([[each[task] for each in after] for task in range(tasks)]),
            }

        many, few = [good] * 4 + [far] * 2, [good] * 3 + [behind] * 3
        cases = numbers(many, many), numbers(few, many), numbers(few, [far] * tasks)
        assert answers(adam.are_good_start, *cases) == ALL
        assert adam.good_starts(cases[1])[:, 0].tolist() == [True] * 3 + [False] * 3

    def test_ranks(self):
        """The mean over the tasks; a run that diverged is the last."""
        losses = np.array([[[[3.0, 1.0, 2.0]], [[1.0, 2.0, np.nan]]]] * 2)
        np.testing.assert_array_equal(adam.mean_ranks(losses).value, [[2, 1.5, 2.5]])

    def test_comparison_finds_the_best_rate(self):
        """On ½ |x|² SGD with α = 1 arrives in one step, and one with 0.1 leaves 0.9 of x each."""
        task = adam.Task(bowl(), lambda: ONES)
        steps = np.array([5, 10])
        found = adam.compare(task, [cs231n_optax.sgd], [(0, 0.1)], steps, quick=True)
        np.testing.assert_array_equal(found.first, 1.5)
        np.testing.assert_array_equal(found.tuned, 0)
        expected = np.broadcast_to(1.5 * 0.9 ** (2 * steps[:, None]), (4, 2, 1))
        np.testing.assert_allclose(found.untuned, expected, rtol=1e-5)

    def test_half_the_size(self):
        images = np.array([[[1, 3, 0, 0], [5, 7, 0, 4]]])[..., None]
        np.testing.assert_array_equal(adam.halved(images)[..., 0], [[[4, 1]]])
