"""Links of the pages as they are written, without building the site: files and headings exist, others are https."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from docs.site_pages import ROOT, with_links_to_pages, without_escaped_bars, written_pages
from tests.docs.pages import FENCE, pages

LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^)]*\))?)\)")


def links(page: str) -> list[str]:
    return LINK.findall(FENCE.sub("", pages()[page]))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, by GitHub's rule, which the site's is too."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


@pytest.mark.parametrize("page", written_pages())
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
            continue
        target = (ROOT / page).parent / parts.path if parts.path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        assert target.resolve().is_relative_to(ROOT)
        if parts.fragment:
            text = target.read_text()
            assert parts.fragment in anchors(text), f"{page} links to {link}; there are {sorted(anchors(text))}"


def test_some_page_has_links_of_every_kind() -> None:
    found = [link for page in written_pages() for link in links(page)]
    assert any(link.startswith("https:") for link in found)
    assert any(link.startswith("#") for link in found)
    assert any(link.endswith("own_data.md") for link in found)


def test_every_page_is_in_the_navigation_and_in_the_list_of_pages() -> None:
    config = re.sub(r"!!python\S*", "", (ROOT / "docs" / "mkdocs.yml").read_text())

    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [leaf for part in parts for leaf in leaves(part)]  # type: ignore[union-attr]

    named = leaves(yaml.safe_load(config)["nav"])
    assert sorted(named) == sorted(set(named))
    assert {path for path in named if not path.startswith("reference/")} == set(written_pages())


@pytest.mark.parametrize(
    ("text", "page", "expected"),
    [
        ("see `shards/README.md`.", "README.md", "see [`shards/README.md`](shards/README.md)."),
        ("see `shards/README.md`.", "shards/own_data.md", "see [`shards/README.md`](README.md)."),
        ("see `docs/troubles.md`.", "cluster/slurm/README.md", "see [`docs/troubles.md`](../../docs/troubles.md)."),
        ("`wsss/README.md`", "wsss/README.md", "`wsss/README.md`"),
        ("`shards/nothing.md` `a.py`", "README.md", "`shards/nothing.md` `a.py`"),
        ("[`shards/README.md`](elsewhere)", "README.md", "[`shards/README.md`](elsewhere)"),
        ("```sh\n`shards/README.md`\n```\n", "README.md", "```sh\n`shards/README.md`\n```\n"),
    ],
)
def test_paths_of_pages_become_links(text: str, page: str, expected: str) -> None:
    assert with_links_to_pages(text, page=page, pages=set(written_pages())) == expected


def test_bars_in_code_spans_of_tables_are_shown_without_their_backslash() -> None:
    written = "| `a\\|b` | c \\| d | `e` |\n\n```sh\nx `a\\|b`\n```\n"
    assert without_escaped_bars(written) == "| `a|b` | c \\| d | `e` |\n\n```sh\nx `a\\|b`\n```\n"


def test_the_lists_of_a_test_s_files_are_no_pages() -> None:
    assert "tests/cluster/data/README.md" not in written_pages()
    assert Path(ROOT / "tests/cluster/data/README.md").exists()
