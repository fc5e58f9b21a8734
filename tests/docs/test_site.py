"""The built site: strict, no dead link or anchor, nothing fetched from elsewhere, every page found by the search."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs.site_pages import ROOT, written_pages
from tests.docs.small_project import small_project

pytestmark = [pytest.mark.slow, pytest.mark.extended]
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Element -> the attribute by which a browser fetches something without being asked."""
NOT_FETCHED = {"canonical", "prev", "next"}


class Html(HTMLParser):
    """Ids, links and fetched addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHED and FETCHED[tag] in given and given.get("rel") not in NOT_FETCHED:
            self.fetched.append(given[FETCHED[tag]])


def build(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout with the options of `make docs`."""
    if find_spec("mkdocs") is None:
        pytest.skip("NOT RUN: mkdocs is not installed; `make docs` installs it")
    (options,) = re.findall(r"\(BIN\)/mkdocs (.*)", (ROOT / "Makefile").read_text())
    command = [sys.executable, "-m", "mkdocs", *options.split(), "--site-dir", str(folder)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["NO_MKDOCS_2_WARNING"] = "1"
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_a_dead_link_and_a_dead_anchor_stop_the_build(tmp_path: Path) -> None:
    project = small_project(tmp_path / "p")
    with (project / "docs" / "troubles.md").open("a") as page:
        page.write("\n[a](nothing.md) [b](README.md#nowhere)\n")
    done = build(project, tmp_path / "site")
    assert done.returncode != 0
    assert "'nothing.md'" in done.stderr and "'#nowhere'" in done.stderr


@pytest.fixture(scope="module")
def parsed(site: Path) -> dict[Path, Html]:
    return {path: Html(path.read_text()) for path in site.rglob("*.html")}


def test_every_page_is_built(site: Path, parsed: dict[Path, Html]) -> None:
    built = {path.relative_to(site).with_suffix("").as_posix() for path in parsed}
    for page in written_pages():
        assert page.removesuffix(".md").replace("README", "index") in built
    assert "reference/settings" in built and "reference/wsss.ops" in built


def test_links_and_anchors_lead_somewhere(site: Path, parsed: dict[Path, Html]) -> None:
    checked = 0
    for path, page in parsed.items():
        if path.name == "404.html":
            continue  # its links begin at the root of a server
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_relative_to(site.resolve()) and target.is_file(), f"{path}: {link}"
            if parts.fragment and target in parsed and parts.fragment != "__tabbed":
                assert unquote(parts.fragment) in parsed[target].ids | {""}, f"{path}: {link}"
            checked += 1
    assert checked > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path, parsed: dict[Path, Html]) -> None:
    assert [(path.name, one) for path, page in parsed.items() for one in page.fetched if urlsplit(one).netloc] == []
    for sheet in site.rglob("*.css"):
        assert not [part for part in sheet.read_text().split("url(")[1:] if part.lstrip("\"'").startswith("http")]


def test_outside_links_are_https(parsed: dict[Path, Html]) -> None:
    outside = {link for page in parsed.values() for link in page.links if urlsplit(link).netloc}
    assert outside and [link for link in outside if urlsplit(link).scheme != "https"] == []


def test_the_search_knows_every_page(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {"shards/own_data.html", "docs/troubles.html", "reference/settings.html"} <= found


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("NOT RUN: Chromium is not installed (apt-get install chromium)")
    return found


def shown(chromium: str, address: str, *, width: int, profile: Path) -> str:
    """The page as a browser of this width has built it, opened from its folder."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    size = [f"--window-size={width},900", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([chromium, *options, *size, address], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("width", [1280, 400])
def test_the_search_works_in_a_browser_without_a_server(site: Path, chromium: str, width: int, tmp_path: Path) -> None:
    address = (site / "cluster" / "resume.html").as_uri()
    page = shown(chromium, f"{address}?q=unreadable", width=width, profile=tmp_path)
    assert re.search(r"\d+ matching document", page)
    assert "shards/own_data.html" in page.partition("md-search-result__list")[2]
    unmatched = shown(chromium, f"{address}?q=xyzzyqwert", width=width, profile=tmp_path)
    assert "No matching documents" in unmatched
