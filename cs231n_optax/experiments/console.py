"""What the terminal shows: plain lines and progress bars."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

from rich import box, progress
from rich.console import Console
from rich.measure import Measurement
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


def print_table(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    keys: int = 1,
    left: Collection[int] = (),
) -> None:
    """Print a table with an empty line before and after it, in parts if the console is narrow.

    Args:
      console: where to print.
      headings: of the columns.
      rows: the cells.
      keys: the number of columns at the left with which every part begins.
      left: the numbers of the columns that are aligned to the left.
    """

    def part(columns: Sequence[int], gap: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, gap, 0, 0), show_edge=False)
        for column in columns:
            justify = "left" if column in left else "right"
            table.add_column(headings[column], justify=justify, overflow="fold")
        for row in rows:
            table.add_row(*(row[column] for column in columns))
        return table

    def fits(table: Table) -> bool:
        options = console.options.update(max_width=_UNLIMITED)
        return Measurement.get(console, options, table).maximum <= console.width

    every = range(len(headings))
    gap = 1 if fits(part(every, 1)) else 0
    parts = [list(every[:keys])]
    for column in every[keys:]:
        if len(parts[-1]) > keys and not fits(part([*parts[-1], column], gap)):
            parts.append(list(every[:keys]))
        parts[-1].append(column)
    for columns in parts:
        console.print("", part(columns, gap), sep="\n")
    console.print()


def print_written(console: Console, folder: Path, names: Iterable[str]) -> None:
    """Print the paths of the files that have been written."""
    paths = ", ".join(str(folder / name) for name in names)
    console.print(f"Written: {paths}", markup=False, highlight=False, soft_wrap=True)


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
