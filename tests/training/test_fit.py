"""`fit` against hand-written loops, and what it promises at the edges."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trials import assert_close, assert_same_bits, member

import cs231n_optax as co

N, D = 60, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3}
PARAMS = {"w": jnp.zeros(D), "b": jnp.zeros(())}
KEY = jax.random.key(7)


def loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


ADAM = co.adam(co.step_decay(0.1, every=20))
fit = functools.partial(co.fit, loss, PARAMS, ADAM, DATA, batch_size=16, key=KEY)


@functools.cache
def fitted(steps):
    """A plain run, once for all tests."""
    return fit(steps=steps)


def ids_seen(result):
    """The examples of each step, from a loss that writes them into the history."""
    return np.asarray(result.history.loss).astype(int)


def by_id(params, batch):
    return batch["id"][0] + 0 * params


class TestResults:
    def test_full_batches_are_a_hand_written_loop(self):
        result = co.fit(loss, PARAMS, ADAM, DATA, steps=12)

        @jax.jit
        def step(params, state):
            value, grads = jax.value_and_grad(loss)(params, DATA)
            updates, state = ADAM.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value

        params, state, losses = PARAMS, ADAM.init(PARAMS), []
        for _ in range(12):
            params, state, value = step(params, state)
            losses.append(value)
        np.testing.assert_allclose(result.history.loss, losses, rtol=1e-6)
        assert_close(result.params, params, rtol=1e-5)

    def test_learns(self):
        tx = co.momentum(0.05)
        result = co.fit(loss, PARAMS, tx, DATA, steps=300, batch_size=16, key=KEY)
        np.testing.assert_allclose(result.params["w"], [1.0, -2.0, 0.5], atol=1e-3)
        np.testing.assert_allclose(result.params["b"], 0.3, atol=1e-3)

    def test_history(self):
        history = fit(steps=45, chunk_size=10).history
        np.testing.assert_array_equal(history.step, np.arange(45))
        np.testing.assert_allclose(history.learning_rate, 0.1 * 0.5 ** (np.arange(45) // 20))
        grads = jax.grad(loss)(PARAMS, DATA)
        first = co.fit(loss, PARAMS, ADAM, DATA, steps=1).history
        expected = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(first.grad_norm, [expected], rtol=1e-6)

    def test_learning_rate_of_an_injected_constant_and_of_a_bare_one(self):
        for tx, expected in (
            (optax.inject_hyperparams(co.sgd)(0.25), 0.25),
            (co.sgd(0.25), np.nan),
        ):
            history = co.fit(loss, PARAMS, tx, DATA, steps=2).history
            np.testing.assert_array_equal(history.learning_rate, [expected] * 2)

    def test_evaluation_at_the_end_of_each_chunk(self):
        def evaluate(params):
            return {"bias": params["b"], "loss": loss(params, DATA)}

        result = fit(steps=25, chunk_size=10, evaluate=evaluate)
        assert result.history.evaluation["bias"].shape == (3,)
        assert result.history.evaluation["bias"][-1] == result.params["b"]
        assert result.history.evaluation["bias"][1] == fitted(20).params["b"]

    @pytest.mark.parametrize("options", [{}, {"callback": lambda history: None}])
    def test_zero_steps(self, options):
        result = fit(steps=0, **options)
        assert_same_bits(result.params, PARAMS)
        assert result.history.loss.shape == (0,)

    def test_an_iterator_without_batches(self):
        result = co.fit(loss, PARAMS, ADAM, iter(()), steps=5)
        assert_same_bits(result.params, PARAMS)
        assert result.state.step == 0
        assert result.history.loss.shape == (0,)

    def test_complex_parameters_descend(self):
        target = 1.0 + 2.0j

        def distance(z, batch):
            return jnp.abs(z - target) ** 2 + 0 * jnp.sum(batch)

        result = co.fit(distance, jnp.array(0j), co.sgd(0.1), jnp.ones(3), steps=100)
        np.testing.assert_allclose(result.params, target, rtol=1e-5)


TEN = {"id": jnp.arange(10.0)}


class TestBatches:
    fit = staticmethod(functools.partial(co.fit, by_id, jnp.zeros(()), co.sgd(0.0), TEN))

    def test_each_epoch_sees_each_example_once_in_another_order(self):
        ids = ids_seen(self.fit(steps=40, batch_size=1, key=KEY)).reshape(4, 10)
        np.testing.assert_array_equal(np.sort(ids, 1), np.tile(np.arange(10), (4, 1)))
        assert len({tuple(epoch) for epoch in ids}) == 4

    def test_order_depends_on_the_key_alone(self):
        one = ids_seen(self.fit(steps=20, batch_size=1, key=KEY))
        np.testing.assert_array_equal(one, ids_seen(self.fit(steps=20, batch_size=1, key=KEY)))
        other = ids_seen(self.fit(steps=20, batch_size=1, key=jax.random.key(8)))
        assert np.any(one != other)

    def test_incomplete_batch_is_left_out(self):
        """Of 10 examples in batches of 4, an epoch has 2 batches: 20 epochs draw all, 8 each."""

        def mean_id(params, batch):
            return jnp.sum(2.0 ** batch["id"]) + 0 * params

        result = co.fit(mean_id, jnp.zeros(()), co.sgd(0.0), TEN, steps=40, batch_size=4, key=KEY)
        sets = np.asarray(result.history.loss).astype(int).reshape(20, 2)
        assert all(bin(a).count("1") == 4 and a & b == 0 for a, b in sets)
        assert np.bitwise_or.reduce(sets.ravel()) == 2**10 - 1

    def test_positions_are_uniform(self):
        """χ² over where each of 10 examples comes in 1000 epochs; 81 degrees of freedom."""
        ids = ids_seen(self.fit(steps=10_000, batch_size=1, key=KEY)).reshape(1000, 10)
        counts = np.array([np.bincount(column, minlength=10) for column in ids.T])
        assert np.sum((counts - 100) ** 2 / 100) < 130  # p = 4e-4

    def test_an_iterator(self):
        batches = ({"id": np.array([float(i)])} for i in range(7))
        result = self.fit.func(by_id, jnp.zeros(()), co.sgd(0.0), batches, steps=5, chunk_size=2)
        np.testing.assert_array_equal(ids_seen(result), [0, 1, 2, 3, 4])
        assert next(batches)["id"] == 5  # no batch is drawn and lost

    def test_an_iterator_that_ends_ends_the_run(self):
        batches = ({"id": jnp.array([float(i)])} for i in range(7))
        result = self.fit.func(by_id, jnp.zeros(()), co.sgd(0.0), batches, steps=50, chunk_size=4)
        np.testing.assert_array_equal(ids_seen(result), np.arange(7))
        assert result.state.step == 7


class TestResuming:
    @pytest.mark.parametrize(
        ("splits", "options"),
        [
            ((20, 10), {}),
            ((29, 1), {"chunk_size": 7}),
            ((11, 1, 18), {"callback": lambda history: None}),
        ],
        ids=["in one program", "in chunks", "from the host"],
    )
    def test_bit_for_bit(self, splits, options):
        whole = fitted(30)
        state, losses = None, []
        for steps in splits:
            part = fit(steps=steps, state=state, **options)
            state = part.state
            losses.append(part.history.loss)
        assert_same_bits(part.params, whole.params)
        assert_same_bits(part.state.opt_state, whole.state.opt_state)
        np.testing.assert_array_equal(np.concatenate(losses), whole.history.loss)

    def test_inputs_survive(self):
        """Buffers are donated between chunks, never those of the caller."""
        first = fit(steps=20, callback=lambda history: None)
        fit(steps=20, state=first.state, callback=lambda history: None)
        assert_same_bits(fitted(20).params, first.params)
        assert np.isfinite(PARAMS["w"]).all()
        assert first.state.step == 20

    def test_state_buffers_are_its_own(self):
        """So that a caller may donate the state of one call to the next."""
        state = fit(steps=0).state
        arrays = jax.tree.leaves(state._replace(key=None)) + jax.tree.leaves(PARAMS)
        assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)
        advance = jax.jit(lambda state: fit(steps=10, state=state), donate_argnums=0)
        assert_same_bits(advance(state).params, fit(steps=10).params)


class TestTracing:
    def test_vmap_over_keys_and_rates(self):
        def run(key, rate):
            return co.fit(
                loss, PARAMS, co.momentum(rate), DATA, steps=30, batch_size=16, key=key
            ).params

        keys, rates = jax.random.split(KEY, 3), jnp.array([0.01, 0.02, 0.03])
        lanes, alone = jax.jit(jax.vmap(run))(keys, rates), jax.jit(run)
        for i in range(3):
            assert_close(member(lanes, i), alone(keys[i], rates[i]), rtol=1e-5)

    def test_vmap_over_decays(self):
        def run(every):
            schedule = co.step_decay(0.1, every)
            return co.fit(loss, PARAMS, co.sgd(schedule), DATA, steps=6).history.learning_rate

        rates = jax.vmap(run)(jnp.array([1, 3]))
        np.testing.assert_allclose(
            rates, 0.1 * 0.5 ** np.array([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 1, 1]])
        )

    def test_one_trace_of_the_loss_for_all_chunks(self):
        traces = []

        def counted(params, batch):
            traces.append(1)
            return loss(params, batch)

        co.fit(counted, PARAMS, ADAM, DATA, steps=50, chunk_size=10, callback=lambda history: None)
        assert len(traces) == 1

    def test_a_diverging_lane_leaves_the_others_alone(self):
        def run(rate):
            return co.fit(loss, PARAMS, co.sgd(rate), DATA, steps=150)

        result = jax.vmap(run)(jnp.array([0.1, 100.0]))
        assert result.state.nonfinite_step[0] == -1
        assert result.state.nonfinite_step[1] > 0
        alone = run(0.1)
        np.testing.assert_allclose(result.params["w"][0], alone.params["w"], rtol=1e-5)


class TestStopping:
    @pytest.mark.parametrize("options", [{}, {"callback": lambda history: None}])
    def test_a_loss_that_is_not_finite(self, options):
        """X ← 4 x from 1, until x² is infinite in float32, at x = 2⁶⁴ after 32 steps."""

        def square(x, batch):
            return x**2 + 0 * batch[0]

        tx = optax.stateless(lambda updates, params: 3 * params)
        run = functools.partial(
            co.fit, square, jnp.array(1.0), tx, jnp.zeros(1), chunk_size=10, **options
        )
        result = run(steps=100)
        assert result.state.nonfinite_step == 32
        assert result.state.step == 32
        assert result.params == 2.0**62  # the last finite loss: 2^124
        loss = np.asarray(result.history.loss)
        np.testing.assert_array_equal(loss[:32], 16.0 ** np.arange(32))
        assert np.isinf(loss[32])
        assert np.isnan(loss[33:]).all()
        again = run(steps=10, state=result.state)
        assert again.params == result.params
        assert again.state.step == 32

    def test_at_the_very_first_step(self):
        result = co.fit(
            lambda params, batch: jnp.log(params) * batch[0],
            jnp.array(-1.0),
            co.adam(),
            jnp.ones(1),
            steps=5,
        )
        assert result.state.nonfinite_step == 0
        assert result.params == -1.0

    def test_callback_sees_each_chunk_and_may_stop(self):
        chunks = []

        def callback(history):
            chunks.append(history)
            return history.step[-1] >= 19

        result = fit(steps=100, chunk_size=10, callback=callback)
        assert [type(history.loss) for history in chunks] == [np.ndarray] * 2
        assert result.state.step == 20
        np.testing.assert_array_equal(
            np.concatenate([history.loss for history in chunks]), fitted(20).history.loss
        )


class Stubborn(NamedTuple):
    trial: Any


def stubborn():
    """Accepts every third point that it is shown: each batch must stay for three steps."""

    def init(params):
        trial = co.with_line_search(optax.identity()).init(params).trial
        return Stubborn(trial._replace(accepted=jnp.array(True)))

    def update(updates, state, params, *, value, **extra_args):
        num_evals = state.trial.num_evals + 1
        accepted = num_evals % 3 == 0
        trial = state.trial._replace(
            num_evals=num_evals,
            accepted=accepted,
            anchor_params=jnp.where(accepted, params, state.trial.anchor_params),
            anchor_value=jnp.where(accepted, value, state.trial.anchor_value),
        )
        return jnp.ones_like(updates), Stubborn(trial)

    return optax.GradientTransformationExtraArgs(init, update)


class TestTrials:
    def test_a_batch_stays_until_accepted(self):
        result = co.fit(by_id, jnp.zeros(()), stubborn(), TEN, steps=30, batch_size=1, key=KEY)
        ids = ids_seen(result).reshape(10, 3)
        assert (ids == ids[:, :1]).all()
        np.testing.assert_array_equal(np.sort(ids[:, 0]), np.arange(10))
        assert result.state.batch == 10

    def test_iterators_batch_stays_across_calls(self):
        batches = ({"id": np.array([float(i)])} for i in range(100))
        state, ids = None, []
        for _ in range(4):
            result = co.fit(
                by_id, jnp.zeros(()), stubborn(), batches, steps=5, chunk_size=4, state=state
            )
            state = result.state
            ids.append(ids_seen(result))
        np.testing.assert_array_equal(np.concatenate(ids), np.arange(20) // 3)

    def test_the_answer_is_the_last_accepted_point(self):
        result = co.fit(by_id, jnp.zeros(()), stubborn(), {"id": jnp.zeros(1)}, steps=5)
        assert result.params == 2.0  # the third point shown, params 0, 1, 2
        assert result.state.params == 5.0

    def test_only_an_accepted_loss_that_is_not_finite_stops(self):
        def poison(bad):
            return lambda params, batch: jnp.where(params == bad, jnp.inf, params) + 0 * batch[0]

        for bad, stopped in ((0.0, -1), (1.0, -1), (2.0, 2)):
            result = co.fit(poison(bad), jnp.zeros(()), stubborn(), jnp.zeros(1), steps=6)
            assert result.state.nonfinite_step == stopped


class TestErrors:
    @pytest.mark.parametrize(
        ("data", "error", "named"),
        [
            ({"x": jnp.zeros(()), "y": X[:, 0]}, ValueError, "data"),
            (iter([]), ValueError, "batch_size"),
            ("digits", TypeError, "data"),
        ],
        ids=["number", "iterator", "string"],
    )
    def test_bad_data(self, data, error, named):
        with pytest.raises(error, match=named):
            co.fit(loss, PARAMS, ADAM, data, steps=1, batch_size=4, key=KEY)

    def test_empty_batches(self):
        with pytest.raises(ValueError, match="batch_size"):
            fit(steps=1, batch_size=0)

    @pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
    def test_a_callback_under_vmap(self):
        def run(rate):
            return co.fit(loss, PARAMS, co.sgd(rate), DATA, steps=1, callback=lambda history: None)

        with pytest.raises(TypeError, match="runs on the host: leave it out to trace fit"):
            jax.vmap(run)(jnp.array([0.1, 0.2]))

    def test_an_iterator_under_jit(self):
        def run(params):
            return co.fit(loss, params, ADAM, iter([DATA]), steps=1).params

        with pytest.raises(TypeError, match="runs on the host: leave it out to trace fit"):
            jax.jit(run)(PARAMS)
