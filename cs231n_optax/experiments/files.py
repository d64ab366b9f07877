"""The files that a command writes: each of them whole, and all of one run."""

import contextlib
import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from cs231n_optax._files import remove_unfinished, replacing_together, writing
from cs231n_optax.experiments.errors import InputError


def check_writable(folder: Path, files: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Check that files and folders of these names can be written to a folder; leave no trace.

    Raise InputError if it is not writable, or a file's name is taken by a folder or the reverse.
    """
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
        taken = [f"{name} is a folder" for name in files if (folder / name).is_dir()]
        taken += [f"{name} is a file" for name in folders if (folder / name).is_file()]
    except OSError as error:
        raise InputError(f"can't write to --out {folder}: {error.strerror}") from error
    if taken:
        raise InputError(f"can't write to --out {folder}: {taken[0]} there")


@contextlib.contextmanager
def new_results(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Yield a temporary folder for the results of a run, which replace older ones at the end.

    An older file of these names without a new one is removed. What was left by a run that was
    killed is removed too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder, re.escape(names[0]))
    with replacing_together(folder, names) as new:
        yield new


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table."""
    with writing(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document as strict JSON, which has neither NaN nor infinity: see `number`.

    Its entry "files" has the checksums of the other files in the folder, which so belong to it.
    """
    others = {
        other.name: f"sha256:{hashlib.sha256(other.read_bytes()).hexdigest()}"
        for other in sorted(path.parent.iterdir())
    }
    with writing(path, "w") as file:
        json.dump(
            {**document, "files": others}, file, indent=2, ensure_ascii=False, allow_nan=False
        )
        file.write("\n")


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure."""
    with writing(path, "wb") as file:
        figure.savefig(file, format="png")


def number(x: Any) -> float | None:
    """Return a number for JSON; NaN and infinity become None."""
    return float(x) if np.isfinite(x) else None


def environment() -> dict[str, Any]:
    """Return the versions and the machine, for the record."""
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
