"""The averages in a state, wherever they lie, and as one tree."""

import functools
from typing import Any

import jax
import optax

from cs231n_optax import _tree
from cs231n_optax.averaging.accepted_points import refuse_rejected_points


def find_averages(name: str, kind: type, state: Any) -> list[Any]:
    """Every state of a kind in a state.

    Raises:
      ValueError: if there is none, or if it was shown rejected trials.
    """
    found = _tree.find(state, kind)
    if not found:
        raise ValueError(
            f"the state holds no state of {name}: put {name}(...) last in the chain, or hand it "
            "to fit or minimize as averaging="
        )
    refuse_rejected_points(state)
    return found


def merge(name: str, trees: list[Any]) -> Any:
    """One tree of those that complement each other, as ``optax.partition`` makes them.

    Raises:
      ValueError: if two of them hold the same leaf, or none does.
    """
    tree = functools.reduce(functools.partial(_merge, name), trees)
    if any(_is_hole(node) for node in jax.tree.leaves(tree, is_leaf=_is_hole)):
        raise ValueError(
            f"{name} has not seen every parameter, for optax.masked (or optax.partition) kept "
            f"some away from it: put it outside, optax.chain(optax.masked(...), {name}(...))"
        )
    return tree


def _merge(name: str, one: Any, other: Any) -> Any:
    if _is_hole(one) or _is_hole(other):
        return other if _is_hole(one) else one
    (nodes, structure), (others, other_structure) = _children(one), _children(other)
    if structure != other_structure:
        raise ValueError(f"two states of {name} have different trees: {one} and {other}")
    if jax.tree_util.treedef_is_leaf(structure):
        raise ValueError(f"two states of {name} hold the same parameter: keep one of the two")
    return jax.tree.unflatten(
        structure, [_merge(name, x, y) for x, y in zip(nodes, others, strict=True)]
    )


def _children(tree: Any) -> tuple[list[Any], Any]:
    """One level of a tree."""
    return jax.tree.flatten(tree, is_leaf=lambda node: node is not tree)


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
