"""What the benchmarks share: calls timed in turns, donated steps, memory plans, the parser."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax


def argument_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that describes its script by the first line of its docstring."""
    return argparse.ArgumentParser(description=doc.split("\n")[0])


def versions() -> str:
    """The device and the versions that a time belongs to."""
    return f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}"


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that a call takes until its result is ready, and the result."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    return time.perf_counter() - start, result


def seconds_in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each call, once a round.

    The calls take turns, so that a change of the machine's load affects all of them; the order
    alternates from round to round. A first round is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(1 + rounds):
        for name in runs if turn % 2 else reversed(list(runs)):
            seconds[name].append(seconds_of(runs[name])[0])
    return {name: row[1:] for name, row in seconds.items()}


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median seconds of each call in turns."""
    return {name: statistics.median(row) for name, row in seconds_in_turns(runs, rounds).items()}


def training_step(
    tx: optax.GradientTransformation, loss: Callable[[Any], jax.Array]
) -> Callable[[Any, Any], tuple[Any, Any]]:
    """An ordinary step: (parameters, state) to the next parameters and state."""
    full = optax.with_extra_args_support(tx)

    def step(params: Any, state: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = full.update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    return step


def compile_donated(
    step: Callable[..., Any], carry: tuple[Any, ...], *constants: Any
) -> tuple[Any, float]:
    """``step(*carry, *constants)`` with the carry donated; the seconds to trace and compile it."""
    start = time.perf_counter()
    jitted = jax.jit(step, donate_argnums=tuple(range(len(carry))))
    compiled = jitted.lower(*carry, *constants).compile()
    return compiled, time.perf_counter() - start


class Steps:
    """A compiled step and its carry: each call takes some steps from where the last one ended."""

    def __init__(
        self, step: Callable[..., Any], carry: tuple[Any, ...], *constants: Any, num: int = 1
    ) -> None:
        self.step, self.carry, self.constants, self.num = step, carry, constants, num

    def __call__(self) -> tuple[Any, ...]:
        for _ in range(self.num):
            self.carry = self.step(*self.carry, *self.constants)
        return self.carry


def planned_bytes(compiled: Any) -> int:
    """The memory that XLA plans: arguments, results and temporaries, less what it reuses."""
    plan = compiled.memory_analysis()
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return total - plan.alias_size_in_bytes
