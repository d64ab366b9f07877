"""What every report needs: plain lines, a bar, numbers for JSON, and where they came from."""

import importlib.metadata
import os
import platform
from typing import Any, Self

import jax
import numpy as np
from rich import progress
from rich.console import Console


def is_live(console: Console) -> bool:
    """Whether somebody watches."""
    return console.is_interactive and not console.quiet


def bars(console: Console) -> progress.Progress:
    """Bars of tasks with the field ``news``, which show nothing if nobody watches."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[news]}"),
        progress.TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not is_live(console),
    )


class Bar:
    """A bar of what is done, and the news, in a terminal.

    It appears with the first news, so that what is printed before that is not in its way.
    """

    def __init__(self, title: str, total: int, console: Console) -> None:
        self._title, self._total, self._console = title, total, console
        self._live = is_live(console)
        self._tenths = 0
        self._bar = bars(console)
        self._task = self._bar.add_task(title, total=total, news="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take it away."""
        self._bar.stop()

    def show(self, done: int, news: str) -> None:
        """So many are done."""
        if self._live:
            self._bar.start()
            self._bar.update(self._task, completed=done, news=news)

    def show_or_tell(self, done: int, news: str) -> None:
        """The same; outside a terminal, a line at each tenth."""
        self.show(done, news)
        if not self._live and 10 * done // self._total > self._tenths:
            self._tenths = 10 * done // self._total
            say(self._console, f"{self._title}: {done} of {self._total}, {news}")


def say(console: Console, *lines: str) -> None:
    """Plain lines, which a pipe gets as they are and a terminal between its words wrapped."""
    wrap = console.is_terminal
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=not wrap)


def number(x: Any) -> float | None:
    """A number for JSON, which has neither NaN nor infinity: they are None."""
    return float(x) if np.isfinite(x) else None


def environment() -> dict[str, Any]:
    """The versions and the machine, for the record."""
    device = jax.devices()[0]
    packages = ("cs231n_optax", "jax", "jaxlib", "optax", "numpy")
    return {
        "versions": {"python": platform.python_version()}
        | {package: importlib.metadata.version(package) for package in packages},
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "device": device.platform,
            "device_kind": device.device_kind,
        },
    }
