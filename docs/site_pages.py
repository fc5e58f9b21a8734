"""What the site is made of: the pages beside the code, the pictures that they show, and reference pages from the code.

A hook of MkDocs (`docs/mkdocs.yml`). Addresses on the site are those in the repository, so that a relative link leads
to the same page in both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]

FOLDERS = ("cluster", "docs", "shards", "tests", "tuning", "wsss")
LEFT_OUT = re.compile(r"/data/")
"""Folders whose README is about the files of one test."""
CODE_SPAN = re.compile(r"(?<![`\[])`([\w./-]+\.md)`(?![`\]])")
FETCHED_SHIM = "https://unpkg.com/iframe-worker/shim"
ESCAPED_BAR = re.compile(r"`[^`\n]*\\\|[^`\n]*`")
"""A code span with a vertical bar in a table: GitHub needs the backslash, MkDocs would show it."""
FENCE = re.compile(r"^(```.*?^```[ \t]*$)", flags=re.DOTALL | re.MULTILINE)


def written_pages(root: Path = ROOT) -> list[str]:
    """Paths of all pages in the repository, relative to its root."""
    found = [*root.glob("*.md"), *(path for folder in FOLDERS for path in (root / folder).rglob("*.md"))]
    return sorted(path for path in (one.relative_to(root).as_posix() for one in found) if not LEFT_OUT.search(path))


def without_escaped_bars(text: str) -> str:
    r"""`text` with `a\|b` in code spans as `a|b`, outside of blocks of code."""
    parts = FENCE.split(text)
    parts[::2] = [ESCAPED_BAR.sub(lambda span: span[0].replace("\\|", "|"), part) for part in parts[::2]]
    return "".join(parts)


def with_links_to_pages(text: str, *, page: str, pages: set[str]) -> str:
    """`text` with every code span that is the path of a page, such as `shards/README.md`, turned into a link."""

    def link(match: re.Match[str]) -> str:
        path = match[1]
        return f"[`{path}`]({_relative(path, page)})" if path in pages and path != page else match[0]

    parts = FENCE.split(text)  # every second part is a block of code
    parts[::2] = [CODE_SPAN.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def _relative(path: str, page: str) -> str:
    here, there = PurePosixPath(page).parent.parts, PurePosixPath(path).parts
    shared = 0
    while shared < min(len(here), len(there) - 1) and here[shared] == there[shared]:
        shared += 1
    return "/".join([".."] * (len(here) - shared) + list(there[shared:]))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, their pictures and the reference pages."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path, and an installed wsss may be of another folder
    from docs.reference import reference_pages

    pictures = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tuning" / "pictures").glob("*.png")]
    for path in [*written_pages(), *pictures, "LICENSE"]:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for path, text in reference_pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn paths of pages into links."""
    pages = {file.src_uri for file in files.documentation_pages()}
    return with_links_to_pages(without_escaped_bars(markdown), page=page.file.src_uri, pages=pages)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """The theme would fetch its stand-in for workers from another host; ours is a file of the site."""
    from mkdocs.utils import get_relative_url

    return output.replace(FETCHED_SHIM, get_relative_url("worker_from_file.js", page.url))


def on_post_template(output_content: str, *, template_name: str, config: MkDocsConfig) -> str:
    """The same for the page of a server about an address that does not exist, which begins at the server's root."""
    return output_content.replace(FETCHED_SHIM, "/worker_from_file.js")
