"""What the terminal shows: plain lines and progress bars."""

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from rich import box, progress
from rich.console import Console
from rich.table import Table

_UNLIMITED = 10_000  # columns


def consoles(*, quiet: bool) -> tuple[Console, Console]:
    """Return the consoles of stdout and stderr; quiet ones print nothing.

    Outside a terminal nothing is wrapped, whatever COLUMNS says.
    """
    both = Console(quiet=quiet), Console(stderr=True, quiet=quiet)
    for console in both:
        if not console.is_terminal:
            console.width = _UNLIMITED
    return both


def is_live(console: Console) -> bool:
    """Return whether the console is a terminal that may be redrawn."""
    return console.is_interactive and not console.quiet


def print_lines(console: Console, *lines: str) -> None:
    """Print plain lines: wrapped between words in a terminal, unwrapped in a pipe."""
    wrap = console.is_terminal
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=not wrap)


def print_table(console: Console, table: Table) -> None:
    """Print a table with an empty line before and after it."""
    console.print("", table, "", sep="\n")


def print_written(console: Console, folder: Path, names: Iterable[str]) -> None:
    """Print the paths of the files that have been written."""
    paths = ", ".join(str(folder / name) for name in names)
    console.print(f"Written: {paths}", markup=False, highlight=False, soft_wrap=True)


def plain_table(headings: Iterable[str], *, padding: tuple[int, int, int, int]) -> Table:
    """Return an empty table of right-aligned columns with a line under the headings."""
    table = Table(box=box.SIMPLE_HEAD, padding=padding, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def progress_bars(console: Console) -> progress.Progress:
    """Return bars whose tasks have the field ``news``; nothing is shown outside a terminal."""
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
    """One progress bar in a terminal.

    It appears with the first `show`, so that lines printed before that stay intact.
    """

    def __init__(self, title: str, total: int, console: Console) -> None:
        self._title, self._total, self._console = title, total, console
        self._live = is_live(console)
        self._tenths = 0
        self._bars = progress_bars(console)
        self._task = self._bars.add_task(title, total=total, news="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar."""
        self._bars.stop()

    def show(self, done: int, news: str) -> None:
        """Show how many are done, and a few words."""
        if self._live:
            self._bars.start()
            self._bars.update(self._task, completed=done, news=news)

    def show_or_print(self, done: int, news: str) -> None:
        """Show it or, outside a terminal, print a line at each tenth."""
        self.show(done, news)
        if not self._live and 10 * done // self._total > self._tenths:
            self._tenths = 10 * done // self._total
            print_lines(self._console, f"{self._title}: {done} of {self._total}, {news}")
