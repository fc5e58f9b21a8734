"""Output at the end of a run: tables, pictures, submissions, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console

from shards.files import write_bytes
from shards.records import RunRecord
from shards.wording import counted
from wsss.contract.closed_output import ReaderGoneError
from wsss.contract.runtime import PipelineRecord, Tracker
from wsss.pipeline.recipe import Recipe
from wsss.pipeline.run import RunSummary
from wsss.report.contact_sheet import contact_sheet
from wsss.report.printing import print_page
from wsss.report.results_table import Row, cautions_behind, classifier_table, result_rows, results_table
from wsss.report.run_files import (
    DIGITS,
    FileName,
    copy_file,
    described,
    in_words,
    read_description,
    write_description,
)
from wsss.report.submissions import ZIP, deliver_submission
from wsss.report.tables import Page, Table, markdown, markdown_text
from wsss.report.tracked_submissions import board_scores, submission_records

RESULTS, CLASSIFIERS, SHEET = "results.md", "classifiers.md", "contact_sheet.png"
DESCRIPTION = "results.json"
_MARGIN = 13
"""Width of the word that a line begins with."""
Say = Callable[[str, str], None]


def show_results(
    recipe: Recipe,
    summary: RunSummary,
    *,
    tracker: Tracker,
    console: Console,
    open_command: str,
    out: TextIO | None = None,
) -> None:
    """Print tables, and other messages to `console`; write the files, and report them to `tracker`.

    `open_command`: the command that opens the runs in a browser. `out`: stream for the tables; default stdout.
    """

    def say(word: str, text: str) -> None:
        style = "yellow" if word == "missing" else None
        console.print(
            f"{word:<{_MARGIN}}{text}", style=style, markup=False, emoji=False, highlight=False, soft_wrap=True
        )

    # The table shows all results of the recipe, including those of earlier commands.
    known = {i.name: record for i in recipe.instances if i.is_done() and (record := i.run_record()) is not None}
    rows, tables = result_rows(recipe, known), dict[str, Table]()
    if (classifiers := classifier_table(recipe, known)) is not None:
        tables[CLASSIFIERS] = classifiers
    if rows:
        notes = cautions_behind(recipe, known)
        tables[RESULTS] = results_table(rows, title=recipe.settings.name, notes=notes)
    files = {name: _document(table).encode() for name, table in tables.items()}
    closed: ReaderGoneError | None = None
    try:
        if tables:
            print_page(Page(tables=tables), out=out)
    except ReaderGoneError as gone:  # as after `| head`: files and records do not depend on it
        closed = gone
    if (sheet := contact_sheet(recipe)) is not None:
        files[SHEET] = sheet
    written = _write_files(recipe, files, rows, say)
    _show_submissions(recipe, summary, known, say)
    for word, text in _left_out(summary):
        say(word, text)
    pipeline = PipelineRecord(recipe.settings.name, recipe.fingerprint)
    for submission in submission_records(recipe, summary, known):
        tracker.submission_made(pipeline, submission)
    tracker.pipeline_finished(pipeline, board_scores(recipe, known), written)
    if closed is not None:
        raise closed
    say("browse", open_command)


def _document(table: Table) -> str:
    """A table and the lines below it, as Markdown."""
    return markdown(table) + "".join(f"\n{markdown_text(note)}\n" for note in table.notes)


def _write_files(recipe: Recipe, files: Mapping[str, bytes], rows: list[Row], say: Say) -> dict[str, str]:
    """Write each file under its pipeline's fingerprint, and a copy without it; returns name -> path of the former."""
    if not files:
        return {}
    _keep_the_latest(recipe, say)
    written = {}
    for name, data in files.items():
        path = _named(recipe.results / name, recipe.fingerprint)
        write_bytes(path, data)
        copy_file(path, recipe.results / name)
        written[path.name] = str(path)
        say("pictures" if name == SHEET else "table", f"{path} (a copy: {name})")
    what: dict[str, object] = {"files": sorted(written), "rows": [asdict(row) for row in rows]}
    description = _named(recipe.results / DESCRIPTION, recipe.fingerprint)
    write_description(description, described(recipe, what))
    copy_file(description, recipe.results / DESCRIPTION)
    return written


def _named(path: Path, fingerprint: str) -> Path:
    return path.with_name(FileName(path.stem, fingerprint).stem + path.suffix)


def _dated(path: Path) -> Path:
    """A name with the modification time, for a file without a description."""
    return path.with_name(f"{path.stem}-{datetime.fromtimestamp(path.stat().st_mtime):%Y%m%dT%H%M%S}{path.suffix}")


def _keep_the_latest(recipe: Recipe, say: Say) -> None:
    """Before `results.md` and similar files are replaced: report what they showed, and where that is kept.

    A file of an older version, which is not a copy of a file with a fingerprint, is first copied to its own name.
    """
    known = read_description(recipe.results / DESCRIPTION)
    before, reported = str(known.get("pipeline", "")), False
    for name in (RESULTS, CLASSIFIERS, SHEET):
        path = recipe.results / name
        if not path.is_file():
            continue
        kept = _named(path, before) if before else _dated(path)
        if not kept.exists():
            copy_file(path, kept)
        if before != recipe.fingerprint and not reported:
            reported, changed = True, known.get("changed_settings")
            settings = f", {in_words(changed)}" if isinstance(changed, dict) else ""
            pipeline = f"pipeline {before[:DIGITS]}{settings}" if before else "a run of an older version"
            say("replaced", f"{path} showed {pipeline}; that is kept as {kept.name}")
        if before != recipe.fingerprint:
            path.unlink()  # a picture must not be next to the table of another pipeline
    if before != recipe.fingerprint:
        (recipe.results / DESCRIPTION).unlink(missing_ok=True)


def _show_submissions(recipe: Recipe, summary: RunSummary, known: Mapping[str, RunRecord], say: Say) -> None:
    for name, record in summary.records.items():
        if ZIP in record.artifacts and name in known:
            word = "submission"
            for line in deliver_submission(recipe, recipe.instance(name), known):
                say(word, line)
                word = ""


def _left_out(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """What was skipped, is missing or was excluded, instance by instance."""
    for name, reason in summary.skipped.items():
        yield "skipped", f"{name}: {reason}"
    first: dict[str, str] = {}
    for name, text in summary.missing.items():
        before = first.setdefault(text, name)
        yield "missing", f"{name}: {text}" if before == name else f"{name}: the same as of {before}"
    for name, of_splits in summary.left_out.items():
        counts = ", ".join(counted(count, f"{split} image") for split, count in of_splits.items())
        yield "left out", f"{counts} of {name}, by settings; the reasons are in its index.json"
