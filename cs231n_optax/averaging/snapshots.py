"""Snapshots of one run (lecture 7-1-11): an ensemble for the cost of one training.

At the end of each cycle the parameters are copied into the next row of a ring:

    S[i] ← x,    i ← i + 1 mod M

S = copies, M = num, i = slot. With `cyclic_cosine` of the same cycle length each copy is taken
where the learning rate is lowest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all
from cs231n_optax.averaging.accepted_points import new_point, read_average


class SnapshotsState(NamedTuple):
    """State of `snapshots`, for M copies.

    Attributes:
      count: int32 scalar, the number of updates so far.
      slot: int32 scalar, the row to be written next.
      filled: bool (M,), which rows hold a copy.
      copies: a tree of arrays (M, *shape of the parameter), float32 or wider.
    """

    averages_points = True  # see `refuse_rejected_points`

    count: jax.typing.ArrayLike
    slot: jax.Array
    filled: jax.Array
    copies: optax.Params


def snapshots(num: int, every: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Keep the last ``num`` copies of the parameters, one from the end of each cycle.

    The new parameters are copied after update C, 2 C, 3 C, ..., rounded up, where C is ``every``.
    With ``cyclic_cosine(α, C)`` that is after the smallest step of each cycle. Put it last in a
    chain, or pass it to `fit` or `minimize` as ``averaging=``; the updates pass unchanged.
    `snapshot_params` reads the copies.

    Args:
      num: M >= 1, a Python integer (a static argument of ``optax.inject_hyperparams``). The memory
        is M times that of the parameters.
      every: C > 0 updates, a number or a scalar array (may be traced). It need not be whole; an
        integer is exact for any number of updates.

    Returns:
      A transformation whose ``update`` needs ``params``, and takes ``accept=False`` (may be traced)
      to leave a point uncounted. The copies are float32 or wider, and not finite where the
      parameters are not.

    Raises:
      ValueError, TypeError: if an argument is out of range or of another type, ``params`` are
        missing, or a tree, shape or type is not that of the parameters given to ``init``.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> tx = optax.chain(cs231n_optax.sgd(0.1), cs231n_optax.snapshots(num=3, every=2))
      >>> params = jnp.array(0.0)
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(5):
      ...     updates, state = update(jnp.array(-10.0), state, params)  # a step of 1
      ...     params = optax.apply_updates(params, updates)
      >>> print(cs231n_optax.snapshot_params(state), cs231n_optax.snapshots_filled(state))
      [2. 4. 0.] [ True  True False]

    Source:
      Lecture 7-1-11; G. Huang et al., "Snapshot ensembles: train 1, get M for free", ICLR 2017.
    """
    num = _checks.static_int("num", num, at_least=1, at_most=_checks.MAX_INT)
    every = _checks.positive("every", every)

    def init(params: optax.Params) -> SnapshotsState:
        return SnapshotsState(
            count=jnp.zeros((), jnp.int32),
            slot=jnp.zeros((), jnp.int32),
            filled=jnp.zeros(num, bool),
            copies=_tree.zero_rows(widen_all("parameter", params), num),
        )

    def cycles(count: jax.typing.ArrayLike) -> jax.Array:
        """Number of finished cycles, ⌊count / every⌋; exact if both are integers."""
        whole = isinstance(every, int) or jnp.issubdtype(jnp.result_type(every), jnp.integer)
        dtype = int if whole else float
        return jnp.floor_divide(jnp.asarray(count, dtype), jnp.asarray(every, dtype))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        accept: jax.typing.ArrayLike = True,
        **extra_args: Any,
    ) -> tuple[optax.Updates, SnapshotsState]:
        del extra_args
        _checks.own_state("snapshots", state, SnapshotsState)
        _checks.own_rows("snapshots", "num", num, len(state.filled))
        slot = state.slot
        count = jnp.where(accept, optax.safe_increment(state.count), state.count)
        take = cycles(count) > cycles(state.count)
        rows = jax.tree.map(
            lambda copies: jax.lax.dynamic_index_in_dim(copies, slot, 0, keepdims=False),
            state.copies,
        )
        point = new_point("snapshots", updates, params, rows)

        # Write one row in any case, the old one inside a cycle: a select would copy the whole ring.
        def write(copies: jax.Array, row: jax.Array, x: jax.Array) -> jax.Array:
            row = jnp.where(take, x, row)
            return jax.lax.dynamic_update_index_in_dim(copies, row, slot, 0)

        return updates, SnapshotsState(
            count=count,
            slot=jnp.where(take, jnp.where(slot == num - 1, 0, slot + 1), slot),
            filled=state.filled | take & (jnp.arange(num, dtype=jnp.int32) == slot),
            copies=jax.tree.map(write, state.copies, rows, point),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def snapshot_params(state: Any) -> Any:
    """The copies that `snapshots` keeps, stacked for a `jax.vmap` of the model.

    Args:
      state: the state of `snapshots`, or any that holds one (chained, injected, vmapped, in a
        `FitState`).

    Returns:
      The tree of the parameters, each leaf with a leading axis of ``num``, float32 or wider. The
      copy of cycle k (from 0) is row k mod ``num``; rows that are not filled are zero.

    Raises:
      ValueError: as `averaged_params` does.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum((x - 3.0) ** 2)
      >>> result = cs231n_optax.minimize(fun, jnp.zeros(2), cs231n_optax.sgd(0.25), max_evals=5,
      ...                                averaging=cs231n_optax.snapshots(2, every=2))
      >>> print(cs231n_optax.snapshot_params(result.state)[:, 0])  # of 1.5, 2.25, 2.625, 2.8125
      [2.25   2.8125]
    """
    return read_average("snapshots", SnapshotsState, "copies", state)


def snapshots_filled(state: Any) -> jax.Array:
    """Which rows of `snapshot_params` hold a copy: bool (num,), in a vmapped state (lanes, num).

    Args:
      state: see `snapshot_params`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> print(cs231n_optax.snapshots_filled(cs231n_optax.snapshots(2, 10).init(jnp.ones(3))))
      [False False]
    """
    return read_average("snapshots", SnapshotsState, "filled", state)
