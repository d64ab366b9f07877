"""Averages beside a method that rejects points: of the accepted ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _tree
from cs231n_optax.globalization.trial import AlwaysAcceptingState, Status, Trial, find_trial


class AcceptedPointsState(NamedTuple):
    """State of `on_accepted_points`.

    Attributes:
      inner: that of the transformation.
      averaging: that of the averaging, which has been shown accepted points only.
    """

    inner: optax.OptState
    averaging: optax.OptState


def on_accepted_points(
    tx: optax.GradientTransformation, averaging: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Run a transformation, and average its accepted points beside it.

    Without a trial record these are the new parameters of each update, as in
    ``optax.chain(tx, averaging)``. With one they are the accepted points after the very first,
    which is the initial one.

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
        before: Any = find_trial(state.inner)
        steps, inner_state = inner.update(updates, state.inner, params, **extra_args)
        after = find_trial(inner_state)
        if after is None:
            _, averaging_state = average.update(steps, state.averaging, params)
        else:
            point = after.anchor_params
            running = before.status == Status.RUNNING
            _, averaging_state = average.update(
                jax.tree.map(jnp.zeros_like, point),
                state.averaging,
                point,
                accept=running & after.accepted & (after.num_evals > 1),
            )
        return steps, AcceptedPointsState(inner_state, averaging_state)

    return optax.GradientTransformationExtraArgs(init, update)


def refuse_rejected_points(state: Any) -> None:
    """Raise a ValueError if a state holds an average that is shown rejected trials."""
    rest = _without_accepted(state)
    if _tree.find(rest, Trial) and _holds_average(rest):
        raise ValueError(
            "chained after a line search or a trust region an average would take in rejected "
            "trials: use fit(..., averaging=polyak_average()) or minimize(..., averaging=...) "
            "instead, which show it accepted points only"
        )


def _without_accepted(state: Any) -> Any:
    """The state, less averages of accepted points and records that accept every point."""

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
