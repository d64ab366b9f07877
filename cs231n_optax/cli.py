"""The command line: ``cs231n-optax race``, ``sweep`` and ``solve``, or ``python -m cs231n_optax``.

Exit status: 0, also if a method diverges or does not converge, which is a result; 1 if the results
can't be written; 2 if the input is wrong, after one line on stderr and with nothing written; 130
after Ctrl-C, with what has finished written.

`main` imports the packages of the gallery extra, and says how to install them if one is missing.
"""

import importlib.metadata
import inspect
import io
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cs231n_optax.experiments.errors import BAD_INPUT, PROGRAM, complain, with_exit_status

if TYPE_CHECKING:
    import typer


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
      argv: the arguments; None takes those of the process.

    Returns:
      The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console without α shows a ?
    try:
        app = _application()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        complain(
            f"{package} is not installed; the command line needs the gallery extra: "
            "pip install '.[gallery]' in a clone, pip install 'cs231n_optax[gallery]' otherwise"
        )
        return BAD_INPUT
    return _run(app, argv)


def _application() -> "typer.Typer":
    import typer

    from cs231n_optax.experiments.race import command as race
    from cs231n_optax.experiments.solve import command as solve
    from cs231n_optax.experiments.sweep import command as sweep
    from cs231n_optax.lecture import command as lecture

    app = typer.Typer(add_completion=False)
    for command, examples in (
        (race.race, race.EXAMPLES),
        (sweep.sweep, sweep.EXAMPLES),
        (solve.solve, solve.EXAMPLES),
        (lecture.figures, lecture.EXAMPLES),
    ):
        paragraphs = (inspect.getdoc(command) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(help=text, epilog=examples)(with_exit_status(command))

    def print_version(wanted: bool) -> None:
        if wanted:
            print(PROGRAM, importlib.metadata.version("cs231n_optax"))
            raise typer.Exit

    @app.callback(epilog=f"{PROGRAM} COMMAND --help explains a command.")
    def options(
        version: Annotated[
            bool,
            typer.Option(
                "--version",
                metavar="",
                help="Show the version and exit.",
                callback=print_version,
                is_eager=True,
            ),
        ] = False,
    ) -> None:
        """Run the optimisers of CS231n's lecture 7."""

    return app


def _run(app: "typer.Typer", argv: Sequence[str] | None) -> int:
    """Parse the arguments, run the command, and report wrong usage in one line."""
    import typer
    from typer.main import get_command

    try:
        return get_command(app).main(argv, prog_name=PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        if isinstance(error, typer.BadParameter) and error.param and error.message:
            message = f"{error.param.opts[0]}: {error.message}"
        context = getattr(error, "ctx", None)
        command = context.command_path if context else PROGRAM
        complain(f"{message} (see: {command} --help)")
        return BAD_INPUT
