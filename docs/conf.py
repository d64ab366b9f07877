"""Sphinx's settings: the README and the docstrings, as pages."""

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
