"""The files that a command writes, each of them whole or not at all."""

import csv
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from cs231n_optax._files import replacing
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


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table."""
    with replacing(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document as strict JSON, which has neither NaN nor infinity: see `number`."""
    with replacing(path, "w") as file:
        json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_png(path: Path, figure: Figure) -> None:
    """Write a figure."""
    with replacing(path, "wb") as file:
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
