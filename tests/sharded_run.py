"""Methods of the table, by name, with their parameters over 8 forced host devices: a JSON report.

Run by test_sharding.py in a process of its own, since JAX counts its devices once.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from methods import METHODS
from sharded import NUM_DEVICES, collectives, sharded_params, step_of

import cs231n_optax

STEPS = 3
DENSE = (  # of N² numbers
    "scale_by_bfgs",
    "scale_by_newton",
    "scale_by_newton_saddle_free",
    "bfgs",
    "newton",
)


def misplaced(tree, shardings):
    """The leaves that do not lie where they should."""
    return [
        f"{jax.tree_util.keystr(path)}{list(x.shape)} lies {x.sharding}, not {wanted}"
        for (path, x), wanted in zip(
            jax.tree.leaves_with_path(tree), jax.tree.leaves(shardings), strict=True
        )
        if not x.sharding.is_equivalent_to(wanted, x.ndim)
    ]


def bound(tree, shardings, size):
    """The leaves that ``init`` binds to devices: not small ones for all, nor an N × N matrix."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    free = ((x, s) for x, s in pairs if not s.is_fully_replicated and x.shape != (size, size))
    return tuple(zip(*free, strict=True)) or ((), ())


def report(method):
    """What lies elsewhere, what moves between devices, and how far the numbers are off."""
    tx = method.factory(**method.hyperparams)
    size = 64 if method.name in DENSE else NUM_DEVICES * 4096
    params, shardings = sharded_params(size)
    layout = cs231n_optax.state_sharding(tx, params, shardings)
    state = jax.jit(tx.init, out_shardings=layout)(params)
    out = {
        "eager": misplaced(*bound(tx.init(params), layout, size)),
        "init": misplaced(state, layout),
    }

    def run(params, state, **placed):
        step = jax.jit(step_of(tx), donate_argnums=(0, 1), **placed)
        step = step.lower(params, state).compile()
        for _ in range(STEPS):
            old = (params, state)
            params, state, updates = step(params, state)
            out["kept"] = [x.shape for x in jax.tree.leaves(old) if x.ndim and not x.is_deleted()]
        return params, state, updates, step

    alone = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), params)
    expected = run(alone, tx.init(alone))[0]
    # Where N² numbers are in play XLA by itself would move them; else it leaves all in its place.
    placed = {"out_shardings": (shardings, layout, shardings)} if method.name in DENSE else {}
    params, state, updates, step = run(params, state, **placed)
    out["steps"] = misplaced((params, state, updates), (shardings, layout, shardings))
    out["collectives"] = collectives(step.as_text())
    out["error"] = max(
        float(np.max(np.abs(np.asarray(x) - np.asarray(y))) / np.max(np.abs(np.asarray(y))))
        for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True)
    )
    return out


def main():
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    chosen = (method for method in METHODS if method.name in sys.argv[1:])
    json.dump({method.name: report(method) for method in chosen}, sys.stdout)


if __name__ == "__main__":
    main()
