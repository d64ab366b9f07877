"""What every report needs: plain lines, numbers for JSON, and where they came from."""

import importlib.metadata
import os
import platform
from typing import Any

import jax
import numpy as np
from rich.console import Console


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
