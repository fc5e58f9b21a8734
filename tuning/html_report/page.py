"""The page: a comparison of the runs if there are several, then a section for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from shards.files import write_bytes
from tuning.comparison import compare_results
from tuning.comparison_page import comparison_page
from tuning.html_report.markup import note, table_html
from tuning.html_report.measured_run import MeasuredRun, measure
from tuning.html_report.run_section import PARTS, run_section
from tuning.html_report.style import STYLE
from tuning.leaderboard import leaderboard, leaderboard_table
from tuning.named_results import CompareError, find_results

MOST_BYTES = 5_000_000
"""Largest size of a page; a page that would be larger shows fewer images."""
_NUM_IMAGES = (12, 8, 4, 2, 0)
_COMPARED = ("overall", "classes", "tests", "agreement", "moved", "settings", "lineage", "images")


def write_report(
    names: Sequence[str],
    path: Path,
    *,
    runs: Path,
    uri: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the report of some evaluations, named as for `wsss compare`; returns its size in bytes.

    Nothing is written if a result is gone. Raises `CompareError`.
    """
    notes: list[str] = []
    rows = leaderboard(runs, uri=uri, everything=True)
    results = find_results(list(names), runs=runs, uri=uri, notes=notes)
    for name, result in zip(names, results, strict=True):
        if not result.is_evaluation:
            raise CompareError(f"{name} is no evaluation; wsss report needs the evaluation that measured it")
    measured = [measure(result, rows, runs=runs, on_progress=on_progress) for result in results]
    compared = ""
    if len(results) > 1:
        compared = _comparison(list(names), runs=runs, uri=uri, notes=notes, on_progress=on_progress)
    for num_images in _NUM_IMAGES:
        sections = [
            run_section(run, runs=runs, number=number, num_images=num_images)
            for number, run in enumerate(measured, start=1)
        ]
        data = _page(measured, compared, sections, notes).encode()
        if len(data) <= MOST_BYTES:
            break
    else:
        raise CompareError(
            f"the report of {len(names)} runs takes {len(data):,} bytes even without pictures; at most {MOST_BYTES:,} "
            "are allowed; name fewer runs"
        )
    write_bytes(path, data, what="the report")
    return len(data)


def _comparison(
    names: list[str], *, runs: Path, uri: str, notes: Sequence[str], on_progress: Callable[[int, int], None]
) -> str:
    """The tables of `wsss compare`, or why the runs cannot be compared. `notes` are on the page already."""
    try:
        page = comparison_page(compare_results(names, runs=runs, uri=uri, on_progress=on_progress))
    except CompareError as error:
        return note(f"Not compared: {error}")
    lines = "".join(note(line) for line in page.heading if line not in notes)
    return lines + "".join(table_html(page.tables[name], is_tall=name == "classes") for name in _COMPARED)


def _page(measured: Sequence[MeasuredRun], compared: str, sections: Sequence[str], notes: Sequence[str]) -> str:
    title = " against ".join(run.result.name for run in measured)
    made = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    links = ['<li><a href="#comparison">Comparison</a></li>'] if compared else []
    for number, run in enumerate(measured, start=1):
        parts = " · ".join(f'<a href="#run{number}-{place}">{escape(part)}</a>' for place, part in enumerate(PARTS))
        links.append(f'<li><a href="#run{number}">{escape(run.result.label)}</a>: {parts}</li>')
    rows = [run.result.row for run in measured if run.result.row is not None]
    summary = table_html(leaderboard_table(rows), caption="Scores, best first", without=("sweep", "changed_settings"))
    if compared:
        compared = f'<section aria-labelledby="comparison"><h2 id="comparison">Comparison</h2>{compared}</section>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<a class="skip" href="#main">To the results</a><header><h1>{escape(title)}</h1>'
        f'<p class="note">Made by wsss report on {made}.</p></header>'
        f'<nav aria-label="Contents"><ul>{"".join(links)}</ul></nav>'
        f'<main id="main">{"".join(note(line) for line in notes)}{summary}{compared}{"".join(sections)}</main>'
        "</body></html>\n"
    )
