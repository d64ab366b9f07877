"""Stochastic quasi-Newton (lecture 7-1-10): L-BFGS on mini-batches, with Adam's diagonal as B₀.

On mini-batches the change of the gradient from one step to the next is mostly noise. So here both
gradients of a pair are of one batch, and the pair is taken along a displacement of the averaged
iterates, which is longer and smoother than a step:

    u = x̄ - x̄_last,    y = ∇f_batch(x + u) - ∇f_batch(x)

It costs one more evaluation every tenth step. The direction is

    H m̂,    H ≈ (B₀ + w ∇²f)⁻¹

with the mean m̂ of Adam and its B₀ = diag(√ŝ + ε). H is the BFGS inverse of the pairs
(u, B₀ u + w y), starting at H₀ = B₀⁻¹. Without a pair it is Adam's direction. With the weight w in
proportion to the learning rate, both terms scale alike with the loss and with the parameters.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import compute_if
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.first_order.adam import ScaleByAdamState, scale_by_adam
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate
from cs231n_optax.globalization.trial import FAILED, RUNNING, Trial, first_trial
from cs231n_optax.second_order.curvature_pair import r_inverse_with_pair

METHOD = "with_curvature_pairs"
MEAN_DECAY = 0.9  # of the mean iterate
MIN_CURVATURE = 0.5  # u·y over u·B₀u, below which y is damped
MAX_GROWTH = 5.0  # ‖H m̂‖ over ‖H₀ m̂‖, in the norm of B₀
LOSS_DECAY = 0.99  # of the mean and the variance of the loss
JUMP = 10.0  # standard deviations of the loss
ROUNDING = 100.0  # ulps by which a loss may rise


class Pairs(NamedTuple):
    """The pairs (u, B₀ u + w y), as in `ScaleByLbfgsState`.

    Attributes:
      u, y: trees of arrays (m, *shape of the leaf): a ring buffer with one pair a row.
      slot: int32, the row to be written next.
      uy: (m,), u·y of each pair; 0 in empty rows.
      r_inverse: (m, m), R⁻¹, where R is the upper triangle of U Yᵀ in the order of age; 0 for
        empty rows.
    """

    u: optax.Params
    y: optax.Updates
    slot: jax.Array
    uy: jax.Array
    r_inverse: jax.Array


class Pair(NamedTuple):
    """A new pair: B₀ u + w y after damping, whether it is kept, u·y, and R⁻¹ with it."""

    y: optax.Updates
    kept: jax.Array
    uy: jax.Array
    r_inverse: jax.Array


class ScaleBySqnState(NamedTuple):
    """State of `scale_by_sqn`: that of `scale_by_adam`, and the pairs."""

    handles_accept = True  # takes accept= and restart=, see `_tree.select`

    adam: ScaleByAdamState
    pairs: Pairs


class CurvaturePairsState(NamedTuple):
    """State of `with_curvature_pairs`.

    Attributes:
      trial: the `Trial` record; its anchor is x, the last point that is no probe.
      inner: the state of the transformation.
      mean: x̄, the tree of the parameters.
      last_mean: x̄ at the last probe.
      has_last_mean: bool scalar.
      steps: int32, the steps since the last probe.
      is_probe: bool scalar, whether the parameters of the loop are at a probe point.
      loss_mean, loss_variance: scalars, of the losses at x.
    """

    trial: Trial
    inner: optax.OptState
    mean: optax.Params
    last_mean: optax.Params
    has_last_mean: jax.Array
    steps: jax.Array
    is_probe: jax.Array
    loss_mean: jax.Array
    loss_variance: jax.Array


def scale_by_sqn(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-7,
    *,
    curvature_weight: jax.typing.ArrayLike = 0.03,
    memory_size: int = 8,
) -> optax.GradientTransformationExtraArgs:
    """The stochastic quasi-Newton direction H m̂, from Adam's moments and the pairs it is given.

    B₀ = diag(√ŝ + ε), with m̂ and ŝ of `scale_by_adam`. H is the BFGS inverse of the last
    ``memory_size`` pairs (u, y′), where y′ = B₀ u + w y, starting at H₀ = B₀⁻¹. So without a pair
    H m̂ is Adam's direction, bit for bit.

    A pair is damped where u·y′ < u·B₀u / 2: y′ ← θ y′ + (1 - θ) B₀ u, so that u·y′ = u·B₀u / 2. A
    direction longer than 5 ‖H₀ m̂‖, in the norm ‖p‖² = p·B₀p, is cut to that length.

    Args:
      b1: see `scale_by_adam`.
      b2: see `scale_by_adam`.
      eps: see `scale_by_adam`.
      curvature_weight: w >= 0, a number or a scalar array (may be traced), in the units of a
        learning rate. With w = α, a step of α is Newton's for the function with B₀ / α added to its
        Hessian. Since the mean m̂ makes a step 1 / (1 - b1) times as long, w should be larger: here
        it is 30 times the learning rate.
      memory_size: m >= 1, a Python integer. Memory: (2 m + 2) N numbers for N parameters.

    Returns:
      A transformation of gradients to a direction of ascent, to be chained with a learning rate
      inside `with_curvature_pairs`, which hands it the pairs: ``update(grads, state,
      displacement=u, grad_change=y, is_pair=True)``. With ``accept=False`` the state does not
      change, and the direction is undefined. With ``restart=True`` the pairs are discarded.

    Raises:
      ValueError, TypeError: if an argument is out of range or of another type, or trees or shapes
        differ from those given to ``init``.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> from cs231n_optax.experiments.minibatch.sqn import scale_by_sqn
      >>> grads = jnp.array([3.0, -0.03])
      >>> tx = scale_by_sqn(curvature_weight=0.5)
      >>> u = jnp.array([1.0, 0.0])
      >>> direction, state = tx.update(grads, tx.init(grads), displacement=u, grad_change=6 * u)
      >>> print(direction.round(3))  # half of Adam's where w times the curvature is √ŝ
      [ 0.5 -1. ]

    Source:
      R. H. Byrd, S. L. Hansen, J. Nocedal and Y. Singer, "A stochastic quasi-Newton method for
      large-scale optimization", SIAM Journal on Optimization 26, 2016. The damping: Nocedal and
      Wright, procedure 18.2.

    Differs from:
      The paper, where y is a product with a subsampled Hessian, H₀ = γ I, and the direction is that
      of the batch's gradient; H approximates the inverse Hessian alone, and pairs are not damped.
    """
    b1, b2 = _checks.decay_rate("b1", b1), _checks.decay_rate("b2", b2)
    eps = _checks.epsilon("eps", eps)
    weight = _checks.nonnegative("curvature_weight", curvature_weight)
    m = _checks.static_int("memory_size", memory_size, at_least=1)
    _checks.fits_in_memory(
        f"memory_size={m} takes a {m} x {m} matrix", 4 * m * m, "keep fewer pairs"
    )
    adam = scale_by_adam(b1, b2, eps)

    def init(params: optax.Params) -> ScaleBySqnState:
        dtype = _tree.scalar_dtype(params)
        adam_state: Any = adam.init(params)
        pairs = Pairs(
            u=_tree.zero_rows(params, m),
            y=_tree.zero_rows(params, m),
            slot=jnp.zeros((), jnp.int32),
            uy=jnp.zeros(m, dtype),
            r_inverse=jnp.zeros((m, m), dtype),
        )
        return ScaleBySqnState(adam_state, pairs)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        displacement: Any = None,
        grad_change: Any = None,
        is_pair: jax.typing.ArrayLike = True,
        accept: jax.typing.ArrayLike = True,
        restart: jax.typing.ArrayLike = False,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleBySqnState]:
        del params, extra_args
        _checks.own_state("scale_by_sqn", state, ScaleBySqnState)
        _checks.own_rows("scale_by_sqn", "memory_size", m, len(state.pairs.uy))
        accept, restart = jnp.asarray(accept), jnp.asarray(restart)

        # 1. Adam's direction H₀ m̂, its mean m̂, and the diagonal of B₀. The barrier keeps XLA from
        # compiling Adam together with what follows, and so to other bits.
        adams_direction, adam_state = jax.lax.optimization_barrier(adam.update(updates, state.adam))
        mean = _tree.scale(_tree.bias_correction(b1, adam_state.count), adam_state.first_moment)
        correction2 = _tree.bias_correction(b2, adam_state.count)
        diagonal = jax.tree.map(
            lambda s: jnp.sqrt(s * _tree.cast(correction2, s.dtype)) + jnp.asarray(eps, s.dtype),
            adam_state.second_moment,
        )

        # 2. The pairs, with the new one.
        pairs = state.pairs
        if displacement is not None and jax.tree.leaves(displacement):
            u, y = widen_all("displacement", displacement), widen_all("grad_change", grad_change)
            _checks.like("displacement", u, adam_state.first_moment)
            _checks.like("grad_change", y, adam_state.first_moment)
            offered = accept & jnp.asarray(is_pair)
            pairs = _with_pair(pairs, u, y, diagonal, jnp.asarray(weight), offered=offered)
        pairs = pairs._replace(
            uy=jnp.where(restart, 0, pairs.uy), r_inverse=jnp.where(restart, 0, pairs.r_inverse)
        )

        # 3. The direction H m̂.
        direction = _direction(pairs, mean, adams_direction, diagonal)
        return direction, ScaleBySqnState(_tree.select(accept, adam_state, state.adam), pairs)

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def _with_pair(
    pairs: Pairs, u: Any, y: Any, diagonal: Any, weight: jax.Array, *, offered: jax.Array
) -> Pairs:
    """Make a pair (u, B₀ u + w y), and write it over the oldest, unless it is 0 or not finite."""
    none = Pair(y, jnp.zeros((), bool), jnp.zeros_like(pairs.uy[0]), pairs.r_inverse)
    new = compute_if(offered, lambda: _damped_pair(pairs, u, y, diagonal, weight), otherwise=none)
    kept, slot = offered & new.kept, pairs.slot
    return Pairs(
        u=_tree.write_row(pairs.u, slot, u, keep=kept),
        y=_tree.write_row(pairs.y, slot, new.y, keep=kept),
        slot=jnp.where(kept, (slot + 1) % len(pairs.uy), slot),
        uy=jnp.where(kept & _tree.is_row(slot, len(pairs.uy)), new.uy, pairs.uy),
        r_inverse=jnp.where(kept, new.r_inverse, pairs.r_inverse),
    )


def _damped_pair(pairs: Pairs, u: Any, y: Any, diagonal: Any, weight: jax.Array) -> Pair:
    b0_u = _times(diagonal, u)
    y = _tree.axpy(weight, y, b0_u)

    # Powell's damping: y ← θ y + (1 - θ) B₀ u, so that u·y is at least half of u·B₀u.
    u_b0_u, uy = _tree.vdot(u, b0_u), _tree.vdot(u, y)
    least = MIN_CURVATURE * u_b0_u
    tiny = jnp.finfo(uy.dtype).tiny
    theta = jnp.where(uy < least, (u_b0_u - least) / jnp.maximum(u_b0_u - uy, tiny), 1)
    y = _tree.axpy(theta, y, _tree.scale(1 - theta, b0_u))

    uy = _tree.vdot(u, y)
    kept = (uy > 0) & jnp.isfinite(uy + _tree.vdot(y, y))
    r_inverse = r_inverse_with_pair(
        pairs.r_inverse, pairs.slot, _tree.rows_dot(pairs.u, y), jnp.where(kept, uy, 1)
    )
    return Pair(y, kept, uy, r_inverse)


def _direction(pairs: Pairs, mean: Any, adams_direction: Any, diagonal: Any) -> Any:
    """H m̂, no longer than five times H₀ m̂; that itself without a pair."""
    if not jax.tree.leaves(mean):
        return adams_direction
    # The compact form, see `lbfgs`: a = R⁻¹ U m̂,   q = H₀ (m̂ - Yᵀ a),
    # H m̂ = q + Uᵀ R⁻ᵀ (D a - Y q)
    a = _tree.matvec(pairs.r_inverse, _tree.rows_dot(pairs.u, mean))
    q = jax.tree.map(jnp.subtract, adams_direction, _over(_tree.combine(a, pairs.y), diagonal))
    b = _tree.matvec(pairs.r_inverse.T, pairs.uy * a - _tree.rows_dot(pairs.y, q))
    direction = jax.tree.map(jnp.add, q, _tree.combine(b, pairs.u))

    # ‖p‖² = p·B₀p. If it is not finite, the gradients have overflowed.
    norm2 = _tree.vdot(direction, _times(diagonal, direction))
    limit2 = MAX_GROWTH**2 * _tree.vdot(adams_direction, mean)
    cut = jnp.sqrt(limit2 / jnp.maximum(norm2, jnp.finfo(norm2.dtype).tiny))
    direction = _tree.scale(jnp.where(norm2 > limit2, cut, 1), direction)
    uses_pairs = jnp.any(pairs.uy > 0) & jnp.isfinite(norm2 + limit2)
    return _tree.select(uses_pairs, direction, adams_direction)


def _times(diagonal: Any, x: Any) -> Any:
    return jax.tree.map(lambda d, x: _tree.cast(d, x.dtype) * x, diagonal, x)


def _over(x: Any, diagonal: Any) -> Any:
    return jax.tree.map(lambda x, d: x / _tree.cast(d, x.dtype), x, diagonal)


def with_curvature_pairs(
    tx: optax.GradientTransformation, every: jax.typing.ArrayLike = 10
) -> optax.GradientTransformationExtraArgs:
    """Give the pairs of a held batch to a transformation that holds `scale_by_sqn`.

    Every ``every`` steps, the update at x moves the parameters to a probe point x + u, where
    u = x̄ - x̄_last is the change of the mean iterate since the last probe, x̄ ← 0.9 x̄ + 0.1 x. Its
    point counts as rejected: `accepted` is False, and the batch has to stay for one more
    evaluation. The next update gets the gradient of the same batch there, hands the pair u and
    y = ∇f_batch(x + u) - ∇f_batch(x) to the transformation, and takes the step from x. That makes
    1 + 1 / ``every`` evaluations a step. The first probe comes after 2 ``every`` steps.

    As long as there are pairs, a point is rejected if its loss is not finite or jumps, by 10
    standard deviations of the earlier ones. Then the pairs are discarded, and the parameters return
    to the last accepted point. Without pairs, a loss that is not finite ends the run with the
    status FAILED, as it ends that of `fit`.

    Args:
      tx: a transformation from gradients to steps, such as a chain of `scale_by_sqn` and a learning
        rate. A schedule counts the steps, and not the probes.
      every: steps between two probes, > 0, a number or a scalar array (may be traced).

    Returns:
      A transformation from gradients to steps. Nothing may change the updates after it. ``update``
      needs ``params`` and ``value=``. Memory: four times the parameters, and that of ``tx``.

    Raises:
      ValueError: if ``every`` <= 0; from ``init``, if ``tx`` holds no `scale_by_sqn`; from
        ``update``, if ``params`` are missing or of another tree than those given to ``init``.
      TypeError: if an argument is of another type; from ``init``, if a parameter is narrower than
        float32; from ``update``, if ``value`` is missing.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> from cs231n_optax.experiments.minibatch.sqn import sqn
      >>> x = jax.random.normal(jax.random.key(0), (512, 8)) * jnp.geomspace(0.1, 1, 8)
      >>> def loss(w, batch): return jnp.mean((batch @ (w - 1)) ** 2)
      >>> tx, w = sqn(0.02), jnp.zeros(8)
      >>> state, step = tx.init(w), jax.jit(jax.value_and_grad(loss))
      >>> update, batch = jax.jit(tx.update), x[:64]
      >>> for i in range(440):  # 400 steps
      ...     value, grads = step(w, batch)
      ...     updates, state = update(grads, state, w, value=value)
      ...     w = optax.apply_updates(w, updates)
      ...     if cs231n_optax.accepted(state):  # else the batch stays
      ...         batch = x[64 * (i % 8) :][:64]
      >>> print(float(loss(cs231n_optax.accepted_params(state), x)) < 1e-4)
      True
    """
    inner = optax.with_extra_args_support(_checks.transformation("tx", tx))
    every = _checks.positive("every", every)

    def init(params: optax.Params) -> CurvaturePairsState:
        _checks.trial_params(METHOD, params)
        zero = jnp.zeros((), _tree.scalar_dtype(params))
        inner_state = inner.init(params)
        if not _tree.find(inner_state, ScaleBySqnState):
            raise ValueError("tx must hold scale_by_sqn(...), in a chain, got one without it")
        state = CurvaturePairsState(
            trial=first_trial(params),
            inner=inner_state,
            mean=params,
            last_mean=params,
            has_last_mean=jnp.zeros((), bool),
            steps=jnp.zeros((), jnp.int32),
            is_probe=jnp.zeros((), bool),
            loss_mean=zero,
            loss_variance=zero,
        )
        return jax.tree.map(jnp.copy, state)  # no two fields share a buffer

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, CurvaturePairsState]:
        # 1. Check the input: the value and gradient at x, or at the probe point.
        _checks.own_state(METHOD, state, CurvaturePairsState)
        grads, params, value = _checks.trial_evaluation(
            METHOD, updates, params, value, anchor=state.trial.anchor_params
        )
        value = _tree.cast(value, state.loss_mean.dtype)
        old = state.trial
        grad_norm = _tree.max_abs(grads)
        is_finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        running = old.status == RUNNING
        was_probe = state.is_probe & (old.num_evals > 0)  # else the run begins at a new point
        at_x = running & ~was_probe

        # 2. Accept x, or reject it.
        has_pairs = _has_pairs(state.inner)
        back = at_x & has_pairs & ~(is_finite & (value <= _highest_loss(state)))
        failed = at_x & ~has_pairs & ~is_finite
        moves = at_x & ~back & ~failed

        # 3. The mean iterate and the statistics of the loss.
        mean = jax.tree.map(
            lambda mean, x: jnp.where(moves, MEAN_DECAY * mean + (1 - MEAN_DECAY) * x, mean),
            state.mean,
            params,
        )
        num_steps = state.steps + moves.astype(jnp.int32)
        ends_cycle = moves & (num_steps.astype(float) >= jnp.asarray(every, float))
        probes = ends_cycle & state.has_last_mean
        loss_mean, loss_variance = _loss_statistics(state, value, moves)

        # 4. The step from x, unless the next evaluation is at a probe point.
        takes_step = (moves & ~probes) | (running & was_probe)
        anchor = _tree.select(moves, params, old.anchor_params)
        grad = _tree.select(moves, grads, old.grad)
        steps, inner_state = inner.update(
            grad,
            state.inner,
            anchor,
            value=jnp.where(moves, value, old.anchor_value),
            displacement=jax.tree.map(jnp.subtract, params, anchor),
            grad_change=jax.tree.map(jnp.subtract, grads, grad),
            is_pair=was_probe & is_finite,
            accept=takes_step,
            restart=back,
            **extra_args,
        )
        # To the probe point, back to the last accepted point, or the step from x.
        rests = back | ~running | failed

        def leaf(
            x: jax.Array, a: jax.Array, step: jax.Array, mean: jax.Array, last_mean: jax.Array
        ) -> jax.Array:
            step = jnp.where(was_probe, a + step - x, step)
            return jnp.where(rests, a - x, jnp.where(probes, mean - last_mean, step))

        steps = jax.tree.map(leaf, params, anchor, steps, mean, state.last_mean)

        # 5. The record.
        trial = old._replace(
            anchor_params=anchor,
            grad=grad,
            anchor_value=jnp.where(moves, value, old.anchor_value),
            grad_norm=jnp.where(moves, grad_norm, old.grad_norm),
            accepted=jnp.where(
                running, (moves & ~probes) | (was_probe & is_finite) | failed, old.accepted
            ),
            status=jnp.where(failed, FAILED, old.status),
            num_evals=jnp.where(running, optax.safe_increment(old.num_evals), old.num_evals),
            progress=old.progress._replace(
                start_grad_norm=jnp.where(
                    old.num_evals == 0, grad_norm, old.progress.start_grad_norm
                )
            ),
        )
        return steps, CurvaturePairsState(
            trial=trial,
            inner=_tree.select(takes_step, inner_state, state.inner),
            mean=mean,
            last_mean=_tree.select(ends_cycle, mean, state.last_mean),
            has_last_mean=state.has_last_mean | ends_cycle,
            steps=jnp.where(ends_cycle, 0, num_steps),
            is_probe=jnp.where(running, probes, was_probe),
            loss_mean=loss_mean,
            loss_variance=loss_variance,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _has_pairs(state: Any) -> jax.Array:
    """Whether any `scale_by_sqn` of a state has a pair."""
    found = [jnp.any(each.pairs.uy > 0) for each in _tree.find(state, ScaleBySqnState)]
    return jnp.any(jnp.stack(found))


def _highest_loss(state: CurvaturePairsState) -> jax.Array:
    """The highest loss that is no jump: the mean of the earlier ones and 10 deviations."""
    rounding = ROUNDING * jnp.finfo(state.loss_mean.dtype).eps * jnp.abs(state.loss_mean)
    return state.loss_mean + JUMP * jnp.sqrt(state.loss_variance) + rounding


def _loss_statistics(
    state: CurvaturePairsState, value: jax.Array, moves: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The decaying mean and variance of the loss, from the first one and 0."""
    is_first = state.trial.num_evals == 0
    mean = jnp.where(is_first, value, state.loss_mean)
    change = value - mean
    new_mean = mean + (1 - LOSS_DECAY) * change
    variance = LOSS_DECAY * (state.loss_variance + (1 - LOSS_DECAY) * change**2)
    return (
        jnp.where(moves, new_mean, state.loss_mean),
        jnp.where(moves, variance, state.loss_variance),
    )


def sqn(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-7,
    *,
    curvature_weight: jax.typing.ArrayLike = 0.03,
    memory_size: int = 8,
    every: jax.typing.ArrayLike = 10,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic quasi-Newton: `scale_by_sqn`, then x ← x - α H m̂, with pairs of held batches.

    Where the curvature limits progress and not the noise of the gradients: with batches of hundreds
    of examples. Until the first pair, and so for at least 2 ``every`` steps, it is `adam`.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule of the steps. It
        is of the size of Adam's.
      b1: see `scale_by_adam`.
      b2: see `scale_by_adam`.
      eps: see `scale_by_adam`.
      curvature_weight: see `scale_by_sqn`.
      memory_size: see `scale_by_sqn`.
      every: see `with_curvature_pairs`.

    Returns:
      A transformation from gradients to steps; its ``update`` needs ``params`` and ``value=``, and
      a batch has to stay until `accepted` is True, as in `fit`. It takes 1 + 1 / ``every``
      evaluations a step. Memory: (2 m + 6) N numbers for N parameters.

    Raises:
      As `scale_by_sqn` and `with_curvature_pairs` do.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> from cs231n_optax.experiments.minibatch.sqn import sqn
      >>> x = jax.random.normal(jax.random.key(0), (512, 8)) * jnp.geomspace(0.1, 1, 8)
      >>> def loss(w, batch): return jnp.mean((batch @ (w - 1)) ** 2)
      >>> result = cs231n_optax.fit(loss, jnp.zeros(8), sqn(0.02), x, steps=440, batch_size=64,
      ...                           key=jax.random.key(1))
      >>> print(float(loss(result.params, x)) < 1e-4)
      True

    Source:
      See `scale_by_sqn`.

    Differs from:
      See `scale_by_sqn`.
    """
    direction = scale_by_sqn(
        b1, b2, eps, curvature_weight=curvature_weight, memory_size=memory_size
    )
    chain = named_chain("sqn", direction, scale_by_learning_rate(learning_rate))
    return with_curvature_pairs(chain, every)
