"""The pages of the documentation, and the blocks of code in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from docs.site_pages import ROOT, written_pages

NEEDS = {
    "needs a cluster": "machines",
    "needs AWS": "machines",
    "needs VOC 2012": "data",
    "needs ILSVRC DET and LID's package": "data",
    "needs your own data": "data",
    "needs a browser": "a person",
    "needs psa's weights": "weights",
    "needs a GPU": "machines",
    "needs a trained network": "weights",
    "needs a finished sweep": "a run",
    "needs another package": "a package",
    "changes this machine": "a set-up",
    "takes long": "time",
}
"""What the title of a block says that no test runs; after a colon it may say more."""
PAGES_THAT_NEED = {
    "cluster/README.md": "needs a cluster",
    "cluster/aws.md": "needs AWS",
    "cluster/elsewhere.md": "needs a cluster",
    "cluster/slurm/README.md": "needs a cluster",
    "cluster/kubernetes/README.md": "needs a cluster",
    "tests/hosts/README.md": "needs a cluster",
    "tests/faults/README.md": "needs a cluster",
}
"""Pages of which every block without a language needs something, which they say at their top or by their subject."""
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```[ \t]*$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def needs(self) -> str:
        """What it needs that a test does not have; empty if a test runs it."""
        whole_page = "" if self.language else PAGES_THAT_NEED.get(self.page, "")
        return self.title.partition(":")[0] or whole_page

    @property
    def commands(self) -> list[str]:
        """Lines of a block of commands, continued lines joined, without comments."""
        joined = self.text.replace("\\\n", " ")
        return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def blocks_in(text: str, *, page: str) -> Iterator[Block]:
    """The fenced blocks of a text, in order."""
    for match in FENCE.finditer(text):
        info = match[1].strip()
        title = re.search(r'title="([^"]*)"', info)
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, info.partition(" ")[0], title[1] if title else "", match[2])


@cache
def pages() -> dict[str, str]:
    """Path -> text of every page."""
    return {path: (ROOT / path).read_text() for path in written_pages()}


@cache
def blocks() -> tuple[Block, ...]:
    """The blocks of all pages but the list of changes."""
    return tuple(block for page, text in pages().items() for block in blocks_in(text, page=page))
