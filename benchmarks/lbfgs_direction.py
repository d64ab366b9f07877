"""Ways to compute the L-BFGS direction H g from m pairs, inside the loop that uses it.

    python benchmarks/lbfgs_direction.py [--sizes 10,1000,...] [--lanes 2,10,50] [--memory 10]

One round is a pair (s, y) and a gradient g in, a direction out. The loop is compiled, carries the
histories, writes one row of each and computes the direction under a condition that it cannot
foresee. The candidates take turns; times are medians. `floor` is the loop without a direction;
`net` is the time above the floor, and `streams` the ratio of net to the time of reading both
histories twice, which no method can avoid: the faster of x @ A and A @ x over arrays as large, with
x made from the loop's carry so that nothing leaves the loop. Batches are vmapped lanes.

Candidates: the two-loop recursion, in `fori_loop` and unrolled; the compact representation (Byrd,
Nocedal and Schnabel 1994) with the inverse of R kept from step to step; and the same with one
choice undone at a time. The last table is their error against a two-loop recursion in float64.
"""

# ruff: noqa: N803, N806  (S, Y, W and R are the matrices of the paper)
import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LANES = 1000


@jax.custom_batching.custom_vmap
def any_lane(flag: jax.Array) -> jax.Array:
    """Whether the flag is up in any lane: a single flag, so that `cond` stays a condition."""
    return flag


@any_lane.def_vmap
def _(size: int, batched: Any, flag: jax.Array) -> tuple[jax.Array, bool]:
    return any_lane(jnp.any(flag)), False


@jax.custom_batching.custom_vmap
def this_lane(flag: jax.Array) -> jax.Array:
    """Under `cond(any_lane(flag), ...)`: true where nothing is batched (the selects fold away)."""
    return jnp.ones_like(flag)


@this_lane.def_vmap
def _(size: int, batched: Any, flag: jax.Array) -> tuple[jax.Array, bool]:
    return flag, True


class Memory(NamedTuple):
    """A ring of pairs, and the small arrays in the ring's labels.

    W is the inverse of R, R_ij = s_i.y_j where pair i is not newer than pair j; Sg and Yg are the
    products with the gradient at the last accepted point. Clearing the memory is W = 0, gamma = 1.
    """

    S: jax.Array
    Y: jax.Array
    W: jax.Array
    YY: jax.Array
    sy: jax.Array
    Sg: jax.Array
    Yg: jax.Array
    gamma: jax.Array
    slot: jax.Array
    direction: jax.Array


# (memory, s, y, g, accept) -> memory, its direction that of g where accepted
Push = Callable[[Memory, jax.Array, jax.Array, jax.Array, jax.Array], Memory]


def empty(m: int, g: jax.Array) -> Memory:
    """No pairs: the direction is g."""
    big, square, vector = (jnp.zeros(shape, g.dtype) for shape in ((m, g.size), (m, m), (m,)))
    one = jnp.ones((), g.dtype)
    slot = jnp.zeros((), jnp.int32)
    return Memory(big, big, square, square, vector, vector, vector, one, slot, g)


def put_row(ring: jax.Array, slot: jax.Array, row: jax.Array, write: jax.Array) -> jax.Array:
    """The ring with one row written, or as it was."""
    return ring.at[slot].set(jnp.where(write, row, ring[slot]))


def put_column(square: jax.Array, slot: jax.Array, col: jax.Array, write: jax.Array) -> jax.Array:
    """The square with one column written, or as it was."""
    return square.at[:, slot].set(jnp.where(write, col, square[:, slot]))


def floor(memory: Memory, s: jax.Array, y: jax.Array, g: jax.Array, accept: jax.Array) -> Memory:
    """Write the pair; the direction is g."""
    slot = memory.slot
    S, Y = put_row(memory.S, slot, s, accept), put_row(memory.Y, slot, y, accept)
    rho = jnp.sum(s * y)

    def renew() -> Any:
        mine = this_lane(accept)
        later = jnp.where(mine, (slot + 1) % len(S), slot)
        return put_row(memory.sy, slot, rho, mine), later, jnp.where(mine, g, memory.direction)

    keep = memory.sy, slot, memory.direction
    sy, slot, direction = lax.cond(any_lane(accept), renew, lambda: keep)
    return memory._replace(S=S, Y=Y, sy=sy, slot=slot, direction=direction)


def two_loop(unrolled: bool) -> Push:
    """Nocedal's recursion."""

    def push(memory: Memory, s: Any, y: Any, g: Any, accept: Any) -> Memory:
        slot = memory.slot
        S, Y = put_row(memory.S, slot, s, accept), put_row(memory.Y, slot, y, accept)
        rho, yy = jnp.sum(s * y), jnp.sum(y * y)
        m = len(S)

        def renew() -> Any:
            mine = this_lane(accept)
            sy = put_row(memory.sy, slot, rho, mine)
            inverse = jnp.where(sy > 0, 1 / sy, 0)

            def down(j: Any, carry: Any) -> Any:
                q, alpha = carry
                k = (slot - j) % m
                a = inverse[k] * jnp.sum(S[k] * q)
                return q - a * Y[k], alpha.at[k].set(a)

            def up(j: Any, r: Any) -> Any:
                k = (slot + 1 + j) % m
                return r + (alpha[k] - inverse[k] * jnp.sum(Y[k] * r)) * S[k]

            q, alpha = lax.fori_loop(0, m, down, (g, jnp.zeros_like(sy)), unroll=unrolled)
            d = lax.fori_loop(0, m, up, rho / yy * q, unroll=unrolled)
            later = jnp.where(mine, (slot + 1) % m, slot)
            return sy, later, jnp.where(mine, d, memory.direction)

        keep = memory.sy, slot, memory.direction
        sy, slot, direction = lax.cond(any_lane(accept), renew, lambda: keep)
        return memory._replace(S=S, Y=Y, sy=sy, slot=slot, direction=direction)

    return push


def compact(direct: bool = False, sums: bool = False, gemv: bool = False) -> Push:
    """The compact representation.

    Args:
        direct: Compute S y and Y y from the histories, and not as differences of S g and Y g.
        sums: Write all products as a multiplication and a sum.
        gemv: Combine the histories by two vector-matrix products, and not in one expression.
    """
    product = (lambda a, x: jnp.sum(a * x, 1)) if sums else jnp.dot

    def push(memory: Memory, s: Any, y: Any, g: Any, accept: Any) -> Memory:
        slot = memory.slot
        rho, yy = jnp.sum(s * y), jnp.sum(y * y)
        good = accept & (rho > 0)  # an accepted point whose pair is no good still renews Sg and Yg
        S, Y = put_row(memory.S, slot, s, good), put_row(memory.Y, slot, y, good)
        m = len(S)

        def renew() -> Any:
            mine, write = this_lane(accept), good
            here = jnp.arange(m) == slot
            rho_ = jnp.where(write, rho, 1)
            yy_ = jnp.where(write, yy, 1)
            Sg, Yg = product(S, g), product(Y, g)
            if direct:
                Sy, Yy = product(S, y), product(Y, y)
            else:
                Sy, Yy = Sg - memory.Sg, Yg - memory.Yg
            Yy = jnp.where(here, yy, Yy)
            W = put_row(memory.W, slot, jnp.zeros_like(rho), write)
            column = jnp.where(here, 1, -product(W, jnp.where(here, 0, Sy))) / rho_
            W = put_column(W, slot, column, write)
            YY = put_column(put_row(memory.YY, slot, Yy, write), slot, Yy, write)
            sy = put_row(memory.sy, slot, rho, write)
            gamma = jnp.where(write, rho_ / yy_, memory.gamma)

            u = product(W, Sg)
            w = product(W.T, sy * u + gamma * (product(YY, u) - Yg))
            v = -gamma * u
            d = gamma * g
            if gemv:
                d = d + (w @ S + v @ Y)
            else:
                for k in range(m):
                    d = d + w[k] * S[k] + v[k] * Y[k]
            later = jnp.where(write, (slot + 1) % m, slot)
            Sg, Yg = jnp.where(mine, Sg, memory.Sg), jnp.where(mine, Yg, memory.Yg)
            return W, YY, sy, Sg, Yg, gamma, later, jnp.where(mine, d, memory.direction)

        return Memory(S, Y, *lax.cond(any_lane(accept), renew, lambda: tuple(memory[2:])))

    return push


CANDIDATES: dict[str, Push] = {
    "floor": floor,
    "two-loop": two_loop(unrolled=False),
    "two-loop, unrolled": two_loop(unrolled=True),
    "compact": compact(),
    "compact, direct S y": compact(direct=True),
    "compact, x @ A": compact(gemv=True),
    "compact, sums": compact(sums=True),
}


def loop(push: Push, m: int, size: int, lanes: int) -> tuple[Callable[..., Any], Any, Any]:
    """The compiled loop, its carry, and its constants.

    The gradient is that of a quadratic with eigenvalues from 1 to 1/100, at points that a fixed
    displacement keeps from settling: nothing vanishes in however many rounds.
    """
    t = jnp.linspace(0, 1, size)
    constants = 10 ** (-2 * t), jnp.cos(37 * t)

    def round_(k: jax.Array, carry: Any, eigenvalues: jax.Array, kick: jax.Array) -> Any:
        memory, g = carry
        s = jnp.cos(k.astype(g.dtype)) * kick - 0.5 * memory.direction
        y = eigenvalues * s
        g = g + y
        return push(memory, s, y, g, jnp.abs(g[0]) < 1e10), g

    def run(carry: Any, eigenvalues: jax.Array, kick: jax.Array, rounds: int) -> Any:
        def body(k: jax.Array, carry: Any) -> Any:
            one = lambda carry: round_(k, carry, eigenvalues, kick)  # noqa: E731
            return (jax.vmap(one) if lanes else one)(carry)

        return lax.fori_loop(0, rounds, body, carry)

    g = constants[0] * constants[1]
    carry = empty(m, g), g
    if lanes:
        scale = jnp.linspace(1, 2, lanes)
        carry = jax.vmap(lambda a: (empty(m, a * g), a * g))(scale)
    carry = jax.tree.map(jnp.copy, carry)
    compiled = jax.jit(run, donate_argnums=0).lower(carry, *constants, 1).compile()
    return compiled, carry, constants


def stream(m: int, size: int, by_rows: bool) -> Callable[[Any, Any, int], jax.Array]:
    """Both histories read twice, as a loop."""

    def run(S: jax.Array, Y: jax.Array, rounds: int) -> jax.Array:
        def read(total: jax.Array, history: jax.Array) -> jax.Array:
            x = jnp.full(size if by_rows else m, 1 + total, history.dtype)
            return 1e-30 * jnp.sum(history @ x if by_rows else x @ history)

        def body(_: Any, total: jax.Array) -> jax.Array:
            for history in (S, Y, S, Y):
                total = total + read(total, history)
            return total

        return lax.fori_loop(0, rounds, body, jnp.zeros((), S.dtype))

    like = jax.ShapeDtypeStruct((m, size), jnp.float32)
    return jax.jit(run).lower(like, like, 1).compile()


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """The time of a call, and its result."""
    start = time.perf_counter()
    out = jax.block_until_ready(run())
    return time.perf_counter() - start, out


def measure(names: list[str], m: int, size: int, lanes: int, turns: int) -> None:
    """Print the table of one size."""
    loops = {name: loop(CANDIDATES[name], m, size, lanes) for name in names}
    histories = [jnp.ones((m, size * max(lanes, 1))) for _ in range(2)]
    streams = {rows: stream(m, size * max(lanes, 1), rows) for rows in (True, False)}

    def call(key: Any, rounds: int) -> float:
        if key in streams:
            return seconds_of(lambda: streams[key](*histories, rounds))[0] / rounds
        compiled, carry, constants = loops[key]
        seconds, carry = seconds_of(lambda: compiled(carry, *constants, rounds))
        loops[key] = compiled, carry, constants
        return seconds / rounds

    keys = [*loops, *streams]
    many = {}
    for key in keys:
        call(key, 2)
        rough = call(key, 2) if size > 1000 or lanes else call(key, 200)
        many[key] = max(2, min(20_000, int(0.02 / rough)))
    rows: dict[Any, list[float]] = {key: [] for key in keys}
    for turn in range(turns):
        for key in keys if turn % 2 else reversed(keys):
            rows[key].append(call(key, many[key]))
    median = {key: statistics.median(row) for key, row in rows.items()}
    reading = min(median[key] for key in streams)
    speed = 16 * m * size * max(lanes, 1) / reading / 1e9
    title = f"{lanes} lanes of N = {size}" if lanes else f"N = {size}"
    print(f"\n{title}, m = {m}: two streams {reading * 1e6:.2f} µs ({speed:.0f} GB/s)")
    for name in names:
        net = median[name] - median["floor"]
        print(
            f"  {name:20} {median[name] * 1e6:11.2f} µs, net {net * 1e6:11.2f}, "
            f"streams {net / reading:6.2f}",
            flush=True,
        )


def reference(pairs: list[Any], g: np.ndarray) -> np.ndarray:
    """The two-loop recursion in float64."""
    q, alphas = g.astype(np.float64), []
    pairs = [(s.astype(np.float64), y.astype(np.float64)) for s, y in pairs]
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    r = s @ y / (y @ y) * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + (alpha - y @ r / (s @ y)) * s
    return r


def steps_on_a_quadratic(size: int, condition: float, step: float) -> list[Any]:
    """Triples (s, y, g) in float32 of random steps, with y the difference of rounded gradients."""
    rng = np.random.default_rng(0)
    eigenvalues = np.geomspace(1, condition, size)
    g, triples = eigenvalues * rng.normal(size=size), []
    for _ in range(40):
        s = step * rng.normal(size=size)
        after = g + eigenvalues * s
        y = after.astype(np.float32) - g.astype(np.float32)
        triples.append((s.astype(np.float32), y, after.astype(np.float32)))
        g = after
    return triples


def steps_on_rosenbrock(size: int, m: int) -> list[Any]:
    """Triples (s, y, g) in float32 of a run of L-BFGS with backtracking down a curved valley."""

    def value(x: np.ndarray) -> float:
        return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))

    def grad(x: np.ndarray) -> np.ndarray:
        x, out = x.astype(np.float64), np.zeros(size)
        bend = x[1:] - x[:-1] ** 2
        out[1:] = 200 * bend
        out[:-1] -= 400 * bend * x[:-1] + 2 * (1 - x[:-1])
        return out.astype(np.float32)

    x = np.where(np.arange(size) % 2, 1, -1.2).astype(np.float32)
    g, triples = grad(x), []
    for _ in range(200):
        pairs = [(s, y) for s, y, _ in triples[-m:]]
        d = -reference(pairs, g) if pairs else -g / np.linalg.norm(g)
        t = 1.0
        while t > 1e-10 and value((x + t * d).astype(np.float32)) > value(x) + 1e-4 * t * (d @ g):
            t /= 2
        after = (x + t * d).astype(np.float32)
        s, g_after = after - x, grad(after)
        y = g_after - g
        if not s @ y > 1e-6 * np.linalg.norm(s) * np.linalg.norm(y) or not g_after.any():
            break
        triples.append((s, y, g_after))
        x, g = after, g_after
    return triples


def accuracy(names: list[str], m: int) -> None:
    """Print the errors of the directions, relative to their length."""
    print("\nerror relative to the two-loop recursion in float64: median, largest")
    cases = {
        "quadratic, condition 10": steps_on_a_quadratic(100, 1e1, 0.3),
        "quadratic, condition 1e4": steps_on_a_quadratic(100, 1e4, 0.3),
        "steps of 1e-2 |x|": steps_on_a_quadratic(100, 1e2, 1e-2),
        "steps of 1e-4 |x|": steps_on_a_quadratic(100, 1e2, 1e-4),
        "Rosenbrock, N = 2": steps_on_rosenbrock(2, m),
        "Rosenbrock, N = 100": steps_on_rosenbrock(100, m),
    }
    for title, triples in cases.items():
        pairs = [(s, y) for s, y, _ in triples]
        right = [reference(pairs[max(0, k - m + 1) : k + 1], t[2]) for k, t in enumerate(triples)]
        for name in names:
            push, errors = jax.jit(CANDIDATES[name]), []
            memory = empty(m, jnp.zeros(triples[0][0].size))
            for triple, d in zip(triples, right, strict=True):
                memory = push(memory, *map(jnp.asarray, triple), jnp.array(True))
                error = np.linalg.norm(np.asarray(memory.direction, np.float64) - d)
                errors.append(error / np.linalg.norm(d))
            print(f"  {title:25} {name:20} {np.median(errors):8.1e} {max(errors):8.1e}", flush=True)


def numbers(text: str) -> list[int]:
    """An argparse type: integers with commas between them."""
    return [int(float(word)) for word in text.split(",") if word]


def main() -> None:
    """Print a table for each size, each batch, and the errors."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--sizes", type=numbers, default=[10, 100, 1000, 10_000, 100_000, 1_000_000]
    )
    parser.add_argument("--lanes", type=numbers, default=[2, 10, 50], help="N of a lane")
    parser.add_argument("--memory", type=int, default=10)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--candidates", help="indices with commas, of the list in the source")
    options = parser.parse_args()
    names = list(CANDIDATES)
    if options.candidates:
        names = ["floor", *(names[k] for k in numbers(options.candidates) if k)]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, float32")
    for size in options.sizes:
        measure(names, options.memory, size, 0, options.turns)
    for size in options.lanes:
        measure(names, options.memory, size, LANES, options.turns)
    accuracy([name for name in names if name != "floor"], options.memory)


if __name__ == "__main__":
    main()
