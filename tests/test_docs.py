"""The documentation's pages: their snippets run, and their links lead somewhere."""

import html
import pathlib
import re

import pytest

import cs231n_optax as co
from cs231n_optax.lecture.playground.lessons import LESSONS

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
FRAGMENTS = {"batch_norm", "scaling", "training_code"}  # show lines of scripts in examples/


def named(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda path: path.stem)


@named([page for page in PAGES if "```python" in page.read_text() and page.stem not in FRAGMENTS])
def test_snippets_run(page, capsys):
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(snippet, names)


@named(PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_public_name_has_a_page():
    names = re.findall(r"^   (\w+)$", (DOCS / "api.rst").read_text(), re.MULTILINE)
    assert sorted(names) == sorted(co.__all__)


def test_lessons_of_the_playground():
    page = html.unescape((DOCS / "playground.md").read_text())
    assert re.findall(r'"playground\.html(#[^"]+)"', page) == [lesson.state for lesson in LESSONS]
    for lecture in (DOCS / "lecture").glob("*.md"):
        for state in re.findall(r'playground\.html(#[^"]+)"', html.unescape(lecture.read_text())):
            assert state in page
