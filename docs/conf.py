"""Sphinx's settings, and the playground beside the pages."""

import logging
import os
from pathlib import Path

project = "cs231n_optax"
author = "The cs231n_optax developers"
project_copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_heading_anchors = 3
# Pages that start with "file_format: mystnb" are executed, each in a process of its own.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove-warn"  # what a cell writes to stderr fails the build
logging.getLogger("traitlets").setLevel(logging.WARNING)
templates_path = ["_templates"]
exclude_patterns = ["minibatch/*.md"]  # included by minibatch.md
html_theme = "furo"
html_title = "cs231n_optax"
html_static_path = ["phone.css"]
html_css_files = ["phone.css"]
html_search_scorer = str(Path(__file__).with_name("search.js"))
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_custom_sections = ["Source", "Differs from"]


def write_playground(app, exception):
    """Write playground.html into the folder of the pages."""
    if exception is None and app.builder.format == "html":
        from cs231n_optax.lecture.playground.page import build

        (Path(app.outdir) / "playground.html").write_text(build(), encoding="utf-8")


def setup(app):
    """Called by Sphinx."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(app.doctreedir) / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    app.connect("build-finished", write_playground)
