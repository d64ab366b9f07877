"""Sphinx's settings, and the playground beside the pages."""

from pathlib import Path

project = "cs231n_optax"
author = "The cs231n_optax developers"
project_copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
templates_path = ["_templates"]
html_theme = "furo"
html_title = "cs231n_optax"
default_role = "py:obj"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_custom_sections = ["Source", "Differs from"]


def write_playground(app, exception):
    """Write playground.html into the folder of the pages."""
    if exception is None and app.builder.format == "html":
        from cs231n_optax.lecture.playground.page import build

        (Path(app.outdir) / "playground.html").write_text(build(), encoding="utf-8")


def setup(app):
    """Called by Sphinx."""
    app.connect("build-finished", write_playground)
