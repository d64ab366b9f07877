"""One self-contained HTML page: the translated programs, and the templates beside this file."""

import importlib.resources
import json
from typing import Any

import jax

from cs231n_optax.experiments.catalog import DECAYS
from cs231n_optax.lecture.playground.lessons import LESSONS
from cs231n_optax.lecture.playground.programs import (
    DECAY_SLIDERS,
    DECAY_TITLES,
    LANDSCAPES,
    PROGRAMS,
    Slider,
    decay_program,
    landscape_program,
    method_program,
)
from cs231n_optax.lecture.style import METHOD_STYLES

COLORS = {name: line.color for name, line in METHOD_STYLES.items()}
COLORS |= {"gd": "#7A9A01", "lbfgs-1": "#B5651D"}
DARK = {
    "#000000": "#F2F2F2",
    "#0072B2": "#3D8FD1",
    "#6A3D9A": "#B38CE0",
    "#8C6D31": "#C9A45C",
    "#7F7F7F": "#9A9A9A",
    "#4D4D4D": "#BBBBBB",
}
"""Colours for a dark page in place of those that can hardly be seen on it."""


def programs_source() -> str:
    """The programs and their runs as JavaScript, which runs in a browser and in Node alike."""
    with jax.enable_x64(True):
        tables = [
            _table("LANDSCAPES", {name: _landscape(name) for name in LANDSCAPES}),
            _table("DECAYS", {name: _decay(name) for name in DECAYS}),
            _table("METHODS", {name: _method(name) for name in PROGRAMS}),
        ]
    return "\n".join([_template("runtime.js"), *tables, _template("engine.js")])


def build() -> str:
    """The page."""
    page = _template("page.html")
    parts = {
        "/*CSS*/": _template("page.css"),
        "/*PROGRAMS*/": programs_source(),
        "/*LESSONS*/": f"const LESSONS = {_json([lesson._asdict() for lesson in LESSONS])};",
        "/*PAGE*/": _template("page.js"),
    }
    for mark, text in parts.items():
        page = page.replace(mark, text)
    return page


def _template(name: str) -> str:
    files = importlib.resources.files("cs231n_optax.lecture.playground")
    return (files / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")


def _table(name: str, rows: dict[str, str]) -> str:
    return f"const {name} = {{{','.join(f'{_json(key)}:{row}' for key, row in rows.items())}}};\n"


def _row(data: dict[str, Any], functions: dict[str, str]) -> str:
    fields = [f"{_json(key)}:{_json(value)}" for key, value in data.items()]
    return f"{{{','.join(fields + [f'{key}:{text}' for key, text in functions.items()])}}}"


def _sliders(sliders: tuple[Slider, ...]) -> list[dict[str, Any]]:
    return [slider._asdict() for slider in sliders]


def _landscape(name: str) -> str:
    landscape = LANDSCAPES[name]
    data = {
        "title": landscape.title,
        "sliders": _sliders(landscape.sliders),
        "start": landscape.start,
        "window": landscape.window,
        "minimizers": landscape.minimizers.tolist(),
        "minimum": landscape.minimum,
        "rates": landscape.rates,
        "rescaled": landscape.rescaled,
    }
    return _row(data, landscape_program(landscape))


def _decay(name: str) -> str:
    data = {"title": DECAY_TITLES[name], "sliders": _sliders(DECAY_SLIDERS[name])}
    return _row(data, {"rate": decay_program(name)})


def _method(name: str) -> str:
    method, programs = PROGRAMS[name], method_program(PROGRAMS[name])
    color = COLORS[name]
    data = {
        "title": method.title,
        "rule": method.rule,
        "sliders": _sliders(method.sliders),
        "needsHessian": method.needs_hessian,
        "color": color,
        "dark": DARK.get(color, color),
        **{key: value for key, value in programs.items() if key not in ("init", "step")},
    }
    return _row(data, {key: programs[key] for key in ("init", "step")})
