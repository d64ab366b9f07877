"""Run another library's snippets on a page of this folder: those in ``py`` fences.

Run in an environment of its own, which has that library. The page shows what this prints, and
``tests/test_docs.py`` compares our snippets with it::

    pip install torch==2.14.1 && python docs/coming_from/run_peer.py docs/coming_from/pytorch.md
    pip install jaxopt==0.8.5 && python docs/coming_from/run_peer.py docs/coming_from/jaxopt.md
"""

import pathlib
import re
import sys


def main(page):
    """Run the snippets in order."""
    names = {}
    for snippet in re.findall(r"^```py\n(.*?)^```", pathlib.Path(page).read_text(), re.S | re.M):
        exec(snippet, names)


if __name__ == "__main__":
    main(*sys.argv[1:])
