"""The command line: ``cs231n-optax race`` and other commands, or ``python -m cs231n_optax``.

Exit status: 0, also if a method diverges or does not converge, which is a result; 1 if the results
can't be written; 2 if the input is wrong, after one line on stderr and with nothing written; 130
after Ctrl-C and 143 after SIGTERM, with what has finished written.

`main` imports the packages of the gallery extra, and says how to install them if one is missing.
"""

import contextlib
import functools
import importlib.metadata
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import jax

from cs231n_optax.experiments import interrupts
from cs231n_optax.experiments.errors import BAD_INPUT, FAILED, PROGRAM, InputError, complain
from cs231n_optax.experiments.streams import SafeStream, safe_streams

if TYPE_CHECKING:
    import typer


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
      argv: the arguments; None takes those of the process, which a signal then ends from here.

    Returns:
      The exit status.
    """
    with interrupts.handled(by_exit=argv is None), safe_streams():
        status = _main(argv)
    if interrupts.received():
        if status == 0:
            complain("interrupted, but everything is written")
            status = interrupts.exit_status()
        if argv is None:
            interrupts.end_process(status)
    return status


def _main(argv: Sequence[str] | None) -> int:
    try:
        try:
            app = _application()
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            complain(
                f"{package} is not installed; the command line needs the gallery extra: "
                "pip install '.[gallery]' in a clone; without one pip install "
                "'cs231n_optax[gallery] @ git+URL', with the URL of the repository"
            )
            return BAD_INPUT
        status = _run(app, argv)
        interrupts.only_record()
    except KeyboardInterrupt:
        complain(interrupts.NOTHING_WRITTEN)
        return interrupts.exit_status()
    if isinstance(sys.stdout, SafeStream):
        sys.stdout.flush()
        error = sys.stdout.error
        if status == 0 and error is not None and not isinstance(error, BrokenPipeError):
            complain(f"can't write to stdout: {error.strerror}")
            return FAILED
    return status


def _application() -> "typer.Typer":
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it comments on its caches and fonts
    import typer

    from cs231n_optax.experiments.minibatch import command as minibatch
    from cs231n_optax.experiments.race import command as race
    from cs231n_optax.experiments.solve import command as solve
    from cs231n_optax.experiments.sweep import command as sweep
    from cs231n_optax.lecture import command as lecture
    from cs231n_optax.lecture.playground import command as playground

    app = typer.Typer(add_completion=False)
    for command, examples in (
        (race.race, race.EXAMPLES),
        (sweep.sweep, sweep.EXAMPLES),
        (solve.solve, solve.EXAMPLES),
        (minibatch.minibatch, minibatch.EXAMPLES),
        (lecture.figures, lecture.FIGURES_EXAMPLES),
        (lecture.claims, lecture.CLAIMS_EXAMPLES),
        (playground.playground, playground.EXAMPLES),
    ):
        paragraphs = (inspect.getdoc(command) or "").split("\n\n")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(help=text, epilog=examples)(_with_exit_status(command))

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
        """Run the optimisers of CS231n's lecture 7.

        Ctrl-C and SIGTERM end a command in one line and with exit status 130 and 143; what has
        finished is kept.
        """

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


def _with_exit_status(command: Callable[..., int]) -> Callable[..., int]:
    """Turn the expected exceptions of a command into one line on stderr and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> int:
        try:
            with _one_line_warnings(quiet=options["quiet"]), _jax_as_usual():
                return command(*args, **options)
        except InputError as error:
            complain(str(error))
            return BAD_INPUT
        except OSError as error:
            complain(str(error))
            return FAILED
        except BaseException as error:
            if not (interrupts.received() or isinstance(error, KeyboardInterrupt)):
                raise
            complain(interrupts.NOTHING_WRITTEN)
            return interrupts.exit_status()

    return run


@contextlib.contextmanager
def _one_line_warnings(*, quiet: bool) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: complain(f"warning: {message}")
        if quiet:
            warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _jax_as_usual() -> Iterator[None]:
    """Override the flags of JAX that the commands can't run with; refuse if it can't start."""
    try:
        with jax.disable_jit(False), jax.numpy_rank_promotion("allow"):
            yield
    except (AssertionError, RuntimeError) as error:
        try:
            jax.devices()
        except (AssertionError, RuntimeError) as reason:
            why = str(reason) or "no such device is found"
            setting = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
            raise InputError(f"JAX can't start with {setting}: {why}") from error
        raise
