"""The command ``playground``: its option, and its errors."""

from pathlib import Path
from typing import Annotated

from cs231n_optax._files import replacing
from cs231n_optax.experiments import files, interrupts, options
from cs231n_optax.experiments.console import consoles, print_written
from cs231n_optax.experiments.errors import InputError

EXAMPLES = """Examples:
  cs231n-optax playground --out playground.html
      then open the file in a browser
"""

_OUT = "The file of the page; an older one is replaced."

Out = Annotated[Path, options.option(None, "FILE.html", _OUT)]


def playground(out: Out = Path("playground.html"), quiet: options.Quiet = False) -> int:
    """Write the playground, a page that runs the methods in a browser.

    Every step of every method is this library's own JAX program, translated to JavaScript. The
    page is one file of about 100 kB, needs no network, and works from disk.
    """
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {out} must end in .html")
    files.check_writable(out.parent, [out.name])
    console, _ = consoles(quiet=quiet)
    interrupts.begin()
    from cs231n_optax.lecture.playground.page import build  # other commands need not load it

    page = build()
    interrupts.only_record()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out, "w") as file:
        file.write(page)
    print_written(console, out.parent, [out.name])
    return 0
