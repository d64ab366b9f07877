"""What a method costs with its parameters on many devices: bytes, collectives, time.

    python benchmarks/sharded.py [--rounds 15]
    python benchmarks/sharded.py --plan

Bytes are those of the state per float32 parameter, without the parameters and gradients themselves.
Collectives are those of a compiled step with a separable loss on 8 forced host devices. One leaf is
sharded along its first axis, one along its second, and two lie on every device. XLA combines sums
that are ready together into one all-reduce; the size of the largest is given in numbers. Time is
that of an update on one device at a million parameters, over that of `sgd`: medians of accepted
updates. The methods take turns. The evaluation is not counted, except for the products H v of
newton_cg.

With ``--plan``, steps of 10¹⁰ parameters are compiled for 64 forced host devices, and not run. The
bytes are those that XLA plans for each device, gradients and temporaries included.
"""

import functools
import math
import re
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import argument_parser, planned_bytes, seconds_of

import cs231n_optax as co

NUM_DEVICES = 8
WARM_UP = 5  # updates before the first that is timed
COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")

Contender = Callable[[], optax.GradientTransformation]

LINEAR: dict[str, Contender] = {  # states of O(N) numbers
    "sgd": lambda: co.sgd(1e-3),
    "momentum": lambda: co.momentum(1e-3),
    "nesterov": lambda: co.nesterov(1e-3),
    "adagrad": lambda: co.adagrad(1e-3),
    "rmsprop": lambda: co.rmsprop(1e-3),
    "adam": lambda: co.adam(1e-3),
    "with_line_search(identity)": lambda: co.with_line_search(optax.identity()),
    "newton_cg": co.newton_cg,
    "lbfgs(5)": lambda: co.lbfgs(5),
    "lbfgs(15)": co.lbfgs,
}
DENSE: dict[str, Contender] = {"bfgs": co.bfgs, "newton": co.newton}  # states of N² numbers


class Collective(NamedTuple):
    """A collective operation of a compiled program.

    Attributes:
      op: its name in HLO.
      numbers: how many each device receives, over all arrays that are moved together.
    """

    op: str
    numbers: int


def collectives(hlo: str) -> list[Collective]:
    """The collectives in the text of a compiled program; one in a loop or branch counts once."""
    return [
        Collective(op, sum(math.prod(map(int, filter(None, s.split(",")))) for s in shapes))
        for result, op in COLLECTIVE.findall(hlo)
        for shapes in [SHAPE.findall(result)]
    ]


def sharded_params(size: int) -> tuple[Any, Any]:
    """Float32 parameters of ``size`` numbers in all, a multiple of 128, and their shardings."""
    mesh = Mesh(np.array(jax.devices()[:NUM_DEVICES]), ("devices",))
    specs = {"rows": PartitionSpec("devices"), "columns": PartitionSpec(None, "devices")}
    specs |= {"everywhere": PartitionSpec(), "scalar": PartitionSpec()}
    shapes = {"rows": (size // 4, 2), "columns": (3, size // 8), "everywhere": (size // 8 - 1,)}
    shapes |= {"scalar": ()}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    params = {
        name: jnp.sin(1 + jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)
        for name, shape in shapes.items()
    }
    return jax.device_put(params, shardings), shardings


def separable_loss(params: Any) -> jax.Array:
    """Σ over leaves of Σ (1 + i mod 7) √(1 + (x - 2)²), with i along the last axis."""

    def of_leaf(x: jax.Array) -> jax.Array:
        weights = 1 + jnp.arange(x.shape[-1], dtype=x.dtype) % 7 if x.ndim else 1
        return jnp.sum(weights * jnp.sqrt(1 + (x - 2) ** 2))

    return sum((of_leaf(x) for x in jax.tree.leaves(params)), start=jnp.zeros(()))


def step_of(tx: optax.GradientTransformation) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """An ordinary training step, which also returns the updates."""
    full = optax.with_extra_args_support(tx)

    def step(params: Any, state: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(separable_loss)(params)
        updates, state = full.update(grads, state, params, value=value, value_fn=separable_loss)
        return optax.apply_updates(params, updates), state, updates

    return step


def compile_sharded(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """The compiled step, its buffers donated and sharded as `state_sharding` says."""
    layout = co.state_sharding(tx, params, shardings)
    state = placed(jax.eval_shape(tx.init, params), layout)
    step = step_of(tx)
    jitted = jax.jit(
        lambda params, state: step(params, state)[:2],
        donate_argnums=(0, 1),
        out_shardings=(shardings, layout),
    )
    return jitted.lower(placed(params, shardings), state).compile()


def placed(tree: Any, shardings: Any) -> Any:
    """The shapes of a tree, with shardings."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def state_bytes(tx: optax.GradientTransformation, size: int) -> float:
    """Bytes of the state per parameter."""
    state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((size,), jnp.float32))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / size


def relative_times(contenders: dict[str, Contender], size: int, rounds: int) -> dict[str, float]:
    """The median time of an accepted update, over that of the first contender."""
    evaluate = jax.jit(jax.value_and_grad(separable_loss))
    runs: dict[str, Any] = {}
    for name, make in contenders.items():
        tx = optax.with_extra_args_support(make())

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def update(params: Any, state: Any, value: Any, grads: Any, tx: Any = tx) -> Any:
            steps, state = tx.update(grads, state, params, value=value, value_fn=separable_loss)
            return optax.apply_updates(params, steps), state

        params = jnp.sin(jnp.arange(size, dtype=jnp.float32))
        runs[name] = update, (params, tx.init(params))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP + rounds):
        for name in runs if turn % 2 else reversed(runs):
            update, carry = runs[name]
            evaluated = jax.block_until_ready(evaluate(carry[0]))
            elapsed, carry = seconds_of(functools.partial(update, *carry, *evaluated))
            runs[name] = update, carry
            if turn >= WARM_UP and co.accepted(carry[1]):
                times[name].append(elapsed)
    # nan where few rounds had no accepted update
    medians = {name: statistics.median(row or [math.nan]) for name, row in times.items()}
    return {name: median / medians[next(iter(medians))] for name, median in medians.items()}


def print_table(rounds: int) -> None:
    """Bytes, collectives and times."""
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    times = relative_times(LINEAR, 10**6, rounds)
    print("| method | N | bytes / parameter | collectives a step | largest | time / sgd |")
    print("|---|---|---|---|---|---|")
    for contenders, size in ((LINEAR, 8 * 4096), (DENSE, 8 * 128)):
        params, shardings = sharded_params(size)
        for name, make in contenders.items():
            found = collectives(compile_sharded(make(), params, shardings).as_text())
            kinds = {op: sum(c.op == op for c in found) for op in sorted({c.op for c in found})}
            kinds = ", ".join(f"{count} {op}" for op, count in kinds.items()) or "0"
            largest = max((c.numbers for c in found), default=0)
            ratio = f"{times[name]:.1f}" if name in times else ""
            row = (f"`{name}`", size, f"{state_bytes(make(), size):.0f}", kinds, largest, ratio)
            print("| " + " | ".join(map(str, row)) + " |", flush=True)


def print_plan() -> None:
    """Memory on each of 64 devices for 10¹⁰ parameters: 149 matrices of 8192 x 8192 and biases."""
    jax.config.update("jax_num_cpu_devices", 64)
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    specs = {"rows": (None, "devices"), "columns": (None, None, "devices"), "biases": ()}
    shardings = {name: NamedSharding(mesh, PartitionSpec(*spec)) for name, spec in specs.items()}
    shapes = {"rows": (101, 8192, 8192), "columns": (48, 8192, 8192), "biases": (149, 8192)}
    params = {name: jax.ShapeDtypeStruct(s, jnp.float32) for name, s in shapes.items()}
    size = sum(x.size for x in params.values())
    print(f"N = {size:,}\n| method | GB between steps | GB in a step | collectives | largest |")
    print("|---|---|---|---|---|")
    for name, make in LINEAR.items():
        compiled = compile_sharded(make(), params, shardings)
        found, total = collectives(compiled.as_text()), planned_bytes(compiled)
        kept = compiled.memory_analysis().argument_size_in_bytes
        largest = max((c.numbers for c in found), default=0)
        row = (f"`{name}`", f"{kept / 1e9:.1f}", f"{total / 1e9:.1f}", len(found), largest)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def main() -> None:
    """Print the table, or the plan."""
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="updates timed (default: 15)")
    parser.add_argument("--plan", action="store_true", help="instead: the plan for 10¹⁰ parameters")
    options = parser.parse_args()
    if options.plan:
        print_plan()
    else:
        print_table(options.rounds)


if __name__ == "__main__":
    main()
