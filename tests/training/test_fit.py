"""`fit` against hand-written loops, and what it promises at the edges."""

import functools
import itertools
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


def dropout_loss(params, batch, *, key, model_state):
    """Dropout, running statistics, and what a test wants to see of a step as metrics."""
    kept = jax.random.bernoulli(key, 0.8, batch["x"].shape)
    value = loss(params, {**batch, "x": jnp.where(kept, batch["x"] - model_state["mean"][None], 0)})
    mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(batch["x"], axis=0)
    seen = {"key": jax.random.key_data(key), "x": batch["x"], "before": model_state["mean"]}
    return value, ({"mean": mean, "count": model_state["count"] + 1}, seen)


STATISTICS = {"mean": jnp.full(D, 0.5), "count": jnp.int32(0)}
ALL_THREE = {"needs_key": True, "model_state": STATISTICS, "has_aux": True}
fit_network = functools.partial(
    co.fit, dropout_loss, PARAMS, ADAM, DATA, batch_size=16, key=KEY, **ALL_THREE
)


@functools.cache
def fitted_network():
    """30 steps, once for all tests."""
    return fit_network(steps=30)


def where_it_was(params, batch, *, model_state):
    """A loss whose model state is the point at which it was evaluated."""
    return loss(params, batch), params


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
        result = fit_network(steps=0, evaluate=lambda params, model_state: params, **options)
        assert_same_bits(result.params, PARAMS)
        history = result.history
        assert history.loss.shape == (0,)
        assert history.aux["x"].shape == (0, 16, D)
        assert history.evaluation["w"].shape == (0, D)

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
        with pytest.warns(co.DivergenceWarning, match="step 32") as warned:
            result = run(steps=100)
        assert [warning.filename for warning in warned] == [__file__]
        assert result.state.nonfinite_step == 32
        assert result.state.step == 32
        assert result.params == 2.0**62  # the last finite loss: 2^124
        loss = np.asarray(result.history.loss)
        np.testing.assert_array_equal(loss[:32], 16.0 ** np.arange(32))
        assert np.isinf(loss[32])
        assert np.isnan(loss[33:]).all()
        with pytest.warns(co.DivergenceWarning, match="step 32"):
            again = run(steps=10, state=result.state)
        assert again.params == result.params
        assert again.state.step == 32

    @pytest.mark.filterwarnings("ignore::cs231n_optax.DivergenceWarning")
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

    def test_a_traced_run_that_ends_is_silent(self):
        def run(rate):
            return co.fit(loss, PARAMS, co.sgd(rate), DATA, steps=150).state.nonfinite_step

        assert jax.jit(run)(100.0) > 0

    def test_warned_once_whatever_the_number_of_chunks(self):
        with pytest.warns(co.DivergenceWarning) as warned:
            co.fit(
                loss, PARAMS, co.sgd(100.0), DATA, steps=150, chunk_size=5, callback=lambda _: None
            )
        assert len(warned) == 1


class TestCallbacks:
    def test_hears_what_the_run_would_return_if_it_ended_there(self):
        heard = []
        result = fit_network(steps=30, chunk_size=10, callback=heard.append)
        for progress, steps in zip(heard, (10, 20, 30), strict=True):
            expected = fit_network(steps=steps)
            assert progress.num_steps == 30
            assert_same_bits(progress.params, expected.params)
            assert_same_bits(progress.state._replace(key=None), expected.state._replace(key=None))
        rows = [progress.aux for progress in heard]
        assert_same_bits(jax.tree.map(lambda *x: np.concatenate(x), *rows), result.history.aux)
        resumed = fit_network(steps=10, state=heard[1].state)
        assert_same_bits(resumed.params, result.params)

    def test_of_a_line_search_the_accepted_point(self):
        heard = []
        co.fit(where_it_was, PARAMS, co.lbfgs(), DATA, steps=6, chunk_size=1, model_state=PARAMS,
               callback=heard.append)  # fmt: skip
        for progress in heard:
            assert_same_bits(progress.params, progress.state.model_state)
            assert_same_bits(progress.params, co.accepted_params(progress.state))

    def test_state_holds_the_batches_of_an_iterator_that_are_not_used_up(self):
        def batches():
            return ({"id": np.array([float(i)])} for i in range(100))

        heard, data = [], batches()
        run = functools.partial(co.fit, by_id, jnp.zeros(()), stubborn())
        whole = run(data, steps=15, chunk_size=4, callback=heard.append)
        used = int(heard[0].state.batch) + len(heard[0].state.pending)
        data = itertools.islice(batches(), used, None)
        rest = run(data, steps=11, state=heard[0].state)
        np.testing.assert_array_equal(ids_seen(rest), ids_seen(whole)[4:])

    def test_keeps_the_best_parameters_and_stops_early(self):
        best, patience = (np.inf, None), 2

        def callback(progress):
            nonlocal best, patience
            value = float(progress.evaluation[-1])
            if value < best[0]:
                best, patience = (value, progress.params), 2
            else:
                patience -= 1
            return patience == 0

        tx = co.sgd(lambda step: jnp.where(step < 20, 0.1, -0.2))  # descends, then ascends
        result = co.fit(loss, PARAMS, tx, DATA, steps=1000, chunk_size=10, callback=callback,
                        evaluate=lambda params: loss(params, DATA))  # fmt: skip
        assert result.state.step == 40
        assert_same_bits(best[1], co.fit(loss, PARAMS, tx, DATA, steps=20).params)

    def test_an_exception_comes_out_as_itself(self):
        class OwnError(Exception):
            pass

        error = OwnError("here")

        def callback(progress):
            raise error

        with pytest.raises(OwnError) as raised:
            fit(steps=20, callback=callback)
        assert raised.value is error


class TestFlags:
    def run(self, **options):
        return co.fit(loss, PARAMS, co.sgd(0.1), DATA, steps=3, batch_size=16, key=KEY, **options)

    def test_debug_nans(self):
        """A run without a NaN passes, and one with a NaN is found."""
        with jax.debug_nans(True):
            found = self.run(chunk_size=2)
            jitted = jax.jit(lambda: self.run().history)()
            with pytest.raises(FloatingPointError):
                co.fit(lambda x, batch: jnp.log(x) + 0 * batch[0, 0], -1.0, co.sgd(0.1), X, steps=2)
        np.testing.assert_array_equal(found.history.learning_rate, 0)
        np.testing.assert_allclose(jitted.loss, found.history.loss, rtol=1e-6)
        assert_close(found.params, self.run().params, rtol=1e-6)

    @pytest.mark.parametrize(
        "flag",
        [jax.disable_jit, functools.partial(jax.numpy_rank_promotion, "raise")],
        ids=["disable_jit", "rank_promotion"],
    )
    def test_others(self, flag):
        expected = fit_network(steps=1)
        with flag():
            found = fit_network(steps=1, callback=lambda progress: None)
            none = fit_network(steps=0)
        assert_close(found.params, expected.params, rtol=1e-5)
        assert none.history.aux["x"].shape == (0, 16, D)


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

    @pytest.mark.filterwarnings("ignore::cs231n_optax.DivergenceWarning")
    def test_only_an_accepted_loss_that_is_not_finite_stops(self):
        def poison(bad):
            return lambda params, batch: jnp.where(params == bad, jnp.inf, params) + 0 * batch[0]

        for bad, stopped in ((0.0, -1), (1.0, -1), (2.0, 2)):
            result = co.fit(poison(bad), jnp.zeros(()), stubborn(), jnp.zeros(1), steps=6)
            assert result.state.nonfinite_step == stopped

    def test_a_line_search_that_batches_have_ended_says_what_to_use(self):
        """Eight examples of noise: the pairs of one batch are wrong on the next."""
        noise = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)

        def robust(x, batch):
            return jnp.mean(jnp.sqrt(1e-6 + jnp.sum((x - batch) ** 2, axis=-1)))

        run = functools.partial(co.fit, robust, jnp.ones(8), co.lbfgs(), noise, key=KEY)
        with pytest.warns(RuntimeWarning, match=r"FAILED.*larger batches.*batch_size=None.*adam"):
            result = run(steps=200, batch_size=4)
        assert co.status(result.state) == co.Status.FAILED
        assert run(steps=60).state.nonfinite_step == -1  # at a minimum: silent

    def test_a_line_search_without_a_minimum_is_told_of_too(self):
        with pytest.warns(RuntimeWarning, match="UNBOUNDED"):
            co.fit(
                lambda x, batch: jnp.sum(x) + 0 * batch[0], 1.0, co.lbfgs(), np.ones(3), steps=50
            )


class TestNetworks:
    def test_is_a_hand_written_loop(self):
        """With the keys and batches that the loss saw."""
        result = fitted_network()
        targets = DATA["x"] @ np.array([1.0, -2.0, 0.5], np.float32) + 0.3
        target_of = {tuple(x): y for x, y in zip(DATA["x"], targets, strict=True)}

        @jax.jit
        def step(params, opt_state, model_state, batch, key):
            (value, (model_state, _)), grads = jax.value_and_grad(dropout_loss, has_aux=True)(
                params, batch, key=key, model_state=model_state
            )
            updates, opt_state = ADAM.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, model_state, value

        params, opt_state, model_state, losses = PARAMS, ADAM.init(PARAMS), STATISTICS, []
        for key_data, x in zip(*map(result.history.aux.get, ("key", "x")), strict=True):
            batch = {"x": x, "y": np.array([target_of[tuple(row)] for row in np.asarray(x)])}
            key = jax.random.wrap_key_data(key_data)
            params, opt_state, model_state, value = step(params, opt_state, model_state, batch, key)
            losses.append(value)
        np.testing.assert_allclose(result.history.loss, losses, rtol=1e-5)
        assert_close(result.params, params, rtol=1e-5)
        assert_close(result.model_state, model_state, rtol=1e-5)

    @pytest.mark.parametrize(
        ("names", "returned"),
        [
            (("model_state", "has_aux"), lambda value, state, aux: (value, (state, aux))),
            (("needs_key", "model_state"), lambda value, state, aux: (value, state)),
            (("needs_key", "has_aux"), lambda value, state, aux: (value, aux)),
            (("needs_key",), lambda value, state, aux: value),
        ],
        ids=["no key", "no aux", "no state", "a key alone"],
    )
    def test_each_is_switched_on_by_itself(self, names, returned):
        def some(params, batch, **named):
            assert named.keys() == {name.removeprefix("needs_") for name in names} - {"has_aux"}
            filled = {"key": KEY, "model_state": STATISTICS} | named
            value, (model_state, aux) = dropout_loss(params, batch, **filled)
            return returned(value, model_state, aux["x"])

        switched_on = {name: ALL_THREE[name] for name in names}
        result = co.fit(some, PARAMS, ADAM, DATA, steps=3, batch_size=16, key=KEY, **switched_on)
        if "model_state" in names:
            assert result.model_state["count"] == 3
        else:
            assert result.model_state is None
        if "has_aux" in names:
            assert result.history.aux.shape == (3, 16, D)
        else:
            assert result.history.aux is None

    def test_each_batch_has_a_key_of_its_own_and_no_other_use_has_it(self):
        def key_of(params, batch, *, key):
            return 0 * params, jax.random.key_data(key)

        run = functools.partial(
            co.fit, key_of, jnp.zeros(()), co.sgd(0.0), TEN, needs_key=True, has_aux=True
        )
        keys = {tuple(row) for row in np.asarray(run(steps=40, batch_size=1, key=KEY).history.aux)}
        other = run(steps=40, batch_size=1, key=jax.random.key(8)).history.aux
        epochs = jax.vmap(lambda epoch: jax.random.key_data(jax.random.fold_in(KEY, epoch)))
        assert len(keys) == 40
        assert not keys & {tuple(row) for row in np.asarray(other)}
        assert not keys & {tuple(row) for row in np.asarray(epochs(jnp.arange(100)))}
        assert tuple(np.asarray(jax.random.key_data(KEY))) not in keys

    @pytest.mark.parametrize(
        ("splits", "options"),
        [((20, 10), {}), ((29, 1), {"chunk_size": 7}), ((11, 19), {"callback": lambda _: None})],
        ids=["in one program", "in chunks", "from the host"],
    )
    def test_resumes_bit_for_bit(self, splits, options):
        whole, state, rows = fitted_network(), None, []
        for steps in splits:
            part = fit_network(steps=steps, state=state, **options)
            state = part.state
            rows.append((part.history.loss, part.history.aux))
        assert_same_bits(part.state._replace(key=None), whole.state._replace(key=None))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *rows)
        assert_same_bits(joined, (whole.history.loss, whole.history.aux))

    def test_vmap_over_keys_and_model_states(self):
        def run(key, mean):
            statistics = {"mean": mean, "count": jnp.int32(0)}
            result = fit_network(steps=5, key=key, model_state=statistics)
            return result.params, result.model_state, result.history.aux["key"]

        keys, means = jax.random.split(KEY, 2), jnp.stack([jnp.zeros(D), jnp.ones(D)])
        lanes = jax.vmap(run)(keys, means)
        for i in range(2):
            assert_close(member(lanes, i), run(keys[i], means[i]), rtol=1e-5)

    def test_evaluate_takes_the_model_state(self):
        def evaluate(params, *, model_state):
            return {"bias": params["b"], "count": model_state["count"]}

        evaluation = fit_network(steps=25, chunk_size=10, evaluate=evaluate).history.evaluation
        np.testing.assert_array_equal(evaluation["count"], [10, 20, 25])
        assert_close(evaluation["bias"][2], fit_network(steps=25).params["b"], rtol=1e-6)

    def test_a_held_batch_keeps_its_key_and_model_state(self):
        def counted(params, batch, *, key, model_state):
            return by_id(params, batch), (
                {"count": model_state["count"] + 1},
                (jax.random.key_data(key), model_state["count"]),
            )

        result = co.fit(
            counted,
            jnp.zeros(()),
            stubborn(),
            TEN,
            steps=31,
            batch_size=1,
            key=KEY,
            needs_key=True,
            model_state={"count": jnp.int32(0)},
            has_aux=True,
        )
        keys, counts = map(np.asarray, result.history.aux)
        np.testing.assert_array_equal(counts, np.arange(31) // 3)
        assert len({tuple(key) for key in keys}) == 11
        np.testing.assert_array_equal(keys[:30:3], keys[2:30:3])
        assert result.model_state["count"] == 10

    @pytest.mark.parametrize("steps", [1, 2, 3, 8])
    @pytest.mark.parametrize("tx", [co.lbfgs(), co.newton_cg()], ids=["lbfgs", "newton_cg"])
    def test_model_state_of_the_accepted_point(self, tx, steps):
        result = co.fit(where_it_was, PARAMS, tx, DATA, steps=steps, model_state=PARAMS)
        assert_same_bits(result.model_state, result.params)

    def test_an_ended_run_keeps_the_last_finite_model_state(self):
        def square(x, batch, *, model_state):
            return x**2 + 0 * batch[0], (x, {"x": x, "sign": jnp.int32(1), "fine": x > 0})

        tx = optax.stateless(lambda updates, params: 3 * params)
        with pytest.warns(co.DivergenceWarning):
            result = co.fit(
                square,
                jnp.array(1.0),
                tx,
                jnp.zeros(1),
                steps=40,
                model_state=jnp.array(0.0),
                has_aux=True,
            )
        assert result.model_state == result.params == 2.0**62
        aux = jax.tree.map(np.asarray, result.history.aux)
        np.testing.assert_array_equal(aux["x"], [4.0**i if i <= 32 else np.nan for i in range(40)])
        np.testing.assert_array_equal(aux["sign"], np.arange(40) <= 32)
        np.testing.assert_array_equal(aux["fine"], np.arange(40) <= 32)

    def test_optax_line_search_sees_the_same_loss(self):
        """It evaluates ``value_fn``, of which a decrease is the decrease of the step's loss."""
        search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=20)
        tx = optax.chain(optax.sgd(1.0), search)
        options = {**ALL_THREE, "batch_size": None}
        result = co.fit(dropout_loss, PARAMS, tx, DATA, steps=1, key=KEY, **options)
        key = jax.random.wrap_key_data(result.history.aux["key"][0])
        value, _ = dropout_loss(result.params, DATA, key=key, model_state=STATISTICS)
        np.testing.assert_allclose(optax.tree.get(result.state, "value"), value, rtol=1e-6)

    def test_a_loss_may_write_into_its_model_state(self):
        def counting(params, batch, *, model_state):
            model_state["count"] += 1
            return loss(params, batch), model_state

        first = {"count": jnp.int32(0)}
        for tx in (ADAM, co.lbfgs()):
            result = co.fit(counting, PARAMS, tx, DATA, steps=3, chunk_size=2, model_state=first)
            assert result.model_state["count"] >= 1
            assert first["count"] == 0
        assert co.fit(counting, PARAMS, ADAM, DATA, steps=3, model_state=first).model_state == {
            "count": 3
        }

    def test_any_arrays_make_a_model_state(self):
        """Keys as those of NNX, booleans, narrow numbers, nothing at all."""
        first = {"key": jax.random.split(KEY, 2), "flag": True, "half": jnp.float16(1), "none": {}}

        def loss_with(params, batch, *, model_state):
            keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(model_state["key"])
            flipped = ~jnp.asarray(model_state["flag"])
            return loss(params, batch), model_state | {"key": keys, "flag": flipped}

        for tx in (ADAM, co.lbfgs()):
            result = co.fit(loss_with, PARAMS, tx, DATA, steps=1, model_state=first)
            assert result.model_state["flag"].dtype == bool
            assert not result.model_state["flag"]
            assert np.any(
                jax.random.key_data(result.model_state["key"]) != jax.random.key_data(first["key"])
            )
        result = co.fit(
            lambda params, batch, *, model_state: (loss(params, batch), {}),
            PARAMS,
            ADAM,
            DATA,
            steps=1,
            model_state={},
        )
        assert result.model_state == {}


class TestErrors:
    @pytest.mark.parametrize(
        ("returned", "options", "error", "named"),
        [
            (lambda v: (v, 1.0), {}, TypeError, "has_aux"),
            (lambda v: v, {"has_aux": True}, TypeError, "has_aux=True"),
            (lambda v: v, {"model_state": 1.0}, TypeError, "model_state"),
            (lambda v: (v, 1.0), {"model_state": 1.0, "has_aux": True}, TypeError, "aux"),
            (lambda v: (v, "a"), {"has_aux": True}, TypeError, "aux"),
            (lambda v: (v[None], 1.0), {"has_aux": True}, TypeError, "loss"),
            (lambda v: (v, (1.0,)), {"model_state": 1.0}, ValueError, "model_state"),
            (lambda v: (v, 1), {"model_state": 1.0}, ValueError, "model_state"),
            (lambda v: (v, jnp.ones(2)), {"model_state": 1.0}, ValueError, "model_state"),
            (lambda v: v, {"needs_key": True}, ValueError, "key"),
            (lambda v: v, {"needs_key": 1}, TypeError, "needs_key"),
            (lambda v: v, {"has_aux": None}, TypeError, "has_aux"),
            (lambda v: v, {"model_state": "a"}, TypeError, "model_state"),
        ],
    )
    def test_a_loss_that_is_not_what_is_switched_on(self, returned, options, error, named):
        def wrong(params, batch, **named):
            return returned(loss(params, batch))

        with pytest.raises(error, match=named):
            co.fit(wrong, PARAMS, ADAM, DATA, steps=1, **options)

    def test_a_model_state_that_is_not_that_of_the_state(self):
        with pytest.raises(ValueError, match="model_state"):
            fit_network(steps=1, state=fitted(20).state)

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
