"""The documentation's pages: their snippets run, and their links lead somewhere."""

import html
import pathlib
import re
import sys
import tomllib
import types

import numpy as np
import pytest

import cs231n_optax as co
from cs231n_optax.lecture.playground.lessons import LESSONS

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
SNIPPET = re.compile(r"^```(?:python|\{code-cell\})\n(?::.*\n)*(.*?)^```", re.DOTALL | re.MULTILINE)
# What another library's snippet has printed, as docs/coming_from/run_peer.py says.
PEER = re.compile(r"^```py\n.*?^```text\n(.*?)^```", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d*(?:e-?\d+)?")
OPTIONAL = {"equinox", "flax", "haiku", "orbax"}  # the extra `integration`


def named(pages):
    return pytest.mark.parametrize(
        "page", pages, ids=lambda path: str(path.relative_to(DOCS).with_suffix(""))
    )


@pytest.fixture
def names(monkeypatch):
    """Those of a module, so that the classes in it can be pickled."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    return module.__dict__


def run(snippet, names):
    try:
        exec(snippet, names)
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in OPTIONAL:
            raise
        pytest.skip(f"needs pip install -e '.[examples]': {error}")


@named([page for page in PAGES if SNIPPET.search(page.read_text())])
def test_snippets_run(page, names, capsys):
    for snippet in SNIPPET.findall(page.read_text()):
        run(snippet, names)


@named([page for page in PAGES if PEER.search(page.read_text())])
def test_snippets_agree_with_those_of_another_library(page, names, capsys):
    text = page.read_text()
    for peer in PEER.finditer(text):
        run(SNIPPET.search(text, peer.end())[1], names)
        ours, theirs = (
            [float(number) for number in NUMBER.findall(printed)]
            for printed in (capsys.readouterr().out, peer[1])
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@named(PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_public_name_has_a_page():
    names = re.findall(r"^   (\w+)$", (DOCS / "api.rst").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(co.__all__)


def test_versions():
    """Those of pyproject.toml and CITATION.cff."""
    page, root = (DOCS / "versions.md").read_text(), DOCS.parent
    citation = (root / "CITATION.cff").read_text()
    for field in ("version", "date"):
        value = re.search(rf"^{field}(?:-released)?: (.*)$", citation, re.MULTILINE)[1]
        assert re.search(rf"{field} += {{{re.escape(value)}}}", page), field
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name, version = requirement.split(">=")
        assert name == "jaxlib" or f"{name} {version}" in page, requirement
    for extra in project["optional-dependencies"]:
        assert f"`{extra}`" in page, extra


def test_lessons_of_the_playground():
    page = html.unescape((DOCS / "lessons.md").read_text())
    assert re.findall(r'"playground\.html(#[^"]+)"', page) == [lesson.state for lesson in LESSONS]
    for lecture in (DOCS / "lecture").glob("*.md"):
        for state in re.findall(r'playground\.html(#[^"]+)"', html.unescape(lecture.read_text())):
            assert state in page
