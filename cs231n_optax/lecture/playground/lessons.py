"""The lessons: prepared states of the page, one for each thing that the lecture says."""

from typing import NamedTuple


class Lesson(NamedTuple):
    """A link: its section of the lecture, a title, what to look at, and the state of the page."""

    section: str
    title: str
    text: str
    state: str


LESSONS: tuple[Lesson, ...] = ()
