"""What `polyak_average` and `snapshots` share: the points they take, and how they are read.

A method with a line search or a trust region may reject a point. `on_accepted_points` gives an
average the accepted ones only; an average that has seen rejected ones can't be read.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all
from cs231n_optax.globalization.trial import AlwaysAcceptingState, Status, Trial, find_trial


class AcceptedPointsState(NamedTuple):
    """State of `on_accepted_points`.

    Attributes:
      inner: state of the transformation.
      averaging: state of the average.
    """

    inner: optax.OptState
    averaging: optax.OptState


def on_accepted_points(
    tx: optax.GradientTransformation, averaging: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation and average its accepted points.

    If its state has no trial record, every point is accepted, as in ``optax.chain(tx, averaging)``.
    The initial point is not averaged.

    Args:
      tx: the transformation.
      averaging: `polyak_average`, `snapshots`, or a chain of them.

    Raises:
      TypeError: if ``averaging`` is not a transformation.
      ValueError: from ``init``, if it averages nothing.
    """
    wanted = "averaging must be polyak_average(...), snapshots(...) or a chain of them, got "
    if not isinstance(averaging, optax.GradientTransformation):
        raise TypeError(f"{wanted}{averaging!r}")
    inner, average = optax.with_extra_args_support(tx), optax.with_extra_args_support(averaging)

    def init(params: optax.Params) -> AcceptedPointsState:
        averaging_state = average.init(params)
        if not _holds_average(averaging_state):
            raise ValueError(f"{wanted}one with the state {averaging_state}")
        return AcceptedPointsState(inner.init(params), averaging_state)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AcceptedPointsState]:
        _checks.own_state("averaging=", state, AcceptedPointsState)
        before: Any = find_trial(state.inner)
        steps, inner_state = inner.update(updates, state.inner, params, **extra_args)
        after = find_trial(inner_state)
        if after is None:
            _, averaging_state = average.update(steps, state.averaging, params)
        else:
            # The anchor is the accepted point. The first evaluation is at the initial one.
            point = _tree.fill(after.anchor_params, params)
            running = before.status == Status.RUNNING
            _, averaging_state = average.update(
                jax.tree.map(jnp.zeros_like, point),
                state.averaging,
                point,
                accept=running & after.accepted & (after.num_evals > 1),
            )
        return steps, AcceptedPointsState(inner_state, averaging_state)

    return optax.GradientTransformationExtraArgs(init, update)


def new_point(name: str, updates: Any, params: Any, like: Any) -> Any:
    """The new parameters x + u, rounded to the parameters' dtype, then in float32 or wider.

    Args:
      name: of the average, for the errors.
      updates: u, what the loop adds to the parameters.
      params: x.
      like: a tree with the shapes of the parameters given to ``init``.

    Raises:
      ValueError: if ``params`` are missing, or a tree or a shape differs from ``like``.
      TypeError: if a parameter is not floating or complex.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: update(updates, state, params)")
    for what, tree in (("updates", updates), ("parameters", params)):
        got, expected = jax.tree.structure(tree), jax.tree.structure(like)
        if got == expected:
            got = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
            expected = [leaf.shape for leaf in jax.tree.leaves(like)]
        if got != expected:
            raise ValueError(
                f"{name}: the {what} are not those of the parameters given to init: got {got}, "
                f"expected {expected}"
            )
    point = optax.apply_updates(params, updates)
    return jax.tree.map(_as_rounded, widen_all("parameter", point), point)


def _as_rounded(wide: jax.Array, narrow: jax.Array) -> jax.Array:
    """The value of the narrow number, where XLA would skip its rounding in a compiled step."""
    if wide.dtype == narrow.dtype:
        return wide
    # Round the mantissa alone: a shorter exponent would flush float16's subnormals to zero.
    return jax.lax.reduce_precision(wide, 8, jnp.finfo(narrow.dtype).nmant)


def read_average(name: str, kind: type, field: str, state: Any) -> Any:
    """A field of the only state of a kind, wherever it is in a state.

    Args:
      name: of the average, for the errors.
      kind: the class of its state.
      field: of that state.
      state: any state that holds it.

    Raises:
      ValueError: if there is not exactly one such state, a mask kept parameters from it, or it has
        seen rejected points.
    """
    found = _tree.find(state, kind)
    if not found:
        raise ValueError(
            f"the state holds no state of {name}: put {name}(...) last in the chain, or pass it to "
            "fit or minimize as averaging="
        )
    if len(found) > 1:
        raise ValueError(
            f"the state holds {len(found)} states of {name}, expected 1: keep one, after "
            f"optax.partition and not inside it, optax.chain(optax.partition(...), {name}(...))"
        )
    refuse_rejected_points(state)
    tree = getattr(found[0], field)
    if _tree.find(tree, optax.MaskedNode):
        raise ValueError(
            f"{name} has not seen every parameter, for optax.masked (or optax.partition) kept some "
            f"from it: put it outside, optax.chain(optax.masked(...), {name}(...))"
        )
    return tree


def refuse_rejected_points(state: Any) -> None:
    """Raise a ValueError if a state holds an average that has seen rejected points."""
    rest = _without_accepted(state)
    if _tree.find(rest, Trial) and _holds_average(rest):
        raise ValueError(
            "chained after a line search or a trust region an average would take in rejected "
            "trials: use fit(..., averaging=polyak_average()) or minimize(..., averaging=...) "
            "instead, which show it accepted points only"
        )


def _without_accepted(state: Any) -> Any:
    """The state without averages of accepted points and without records that accept every point."""

    def is_safe(node: Any) -> bool:
        return isinstance(node, AcceptedPointsState | AlwaysAcceptingState)

    return jax.tree.map(
        lambda node: _without_accepted(node.inner) if is_safe(node) else node,
        state,
        is_leaf=is_safe,
    )


def _holds_average(state: Any) -> bool:
    def is_average(node: Any) -> bool:
        return getattr(node, "averages_points", False)

    return any(is_average(node) for node in jax.tree.leaves(state, is_leaf=is_average))
