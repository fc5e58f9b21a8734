"""`wsss leaderboard`, `wsss compare` and `wsss report`."""

from __future__ import annotations

import argparse

from shards.output_places import check_output_file, check_output_folder
from wsss.pipeline.console import counting, plain_console
from wsss.report.printing import print_page
from wsss.report.tables import Page


def run(options: argparse.Namespace) -> int:
    """Run the command that the options name; returns the exit status."""
    return {"leaderboard": _leaderboard, "compare": _compare, "report": _report}[options.command](options)


def _print(options: argparse.Namespace, page: Page) -> None:
    print_page(page, form=options.form, only=options.table or "")


def _leaderboard(options: argparse.Namespace) -> int:
    from cluster.tracking.undelivered import undelivered
    from tuning.leaderboard import leaderboard, leaderboard_table

    rows = leaderboard(uri=options.tracking_uri, runs=options.runs, everything=options.all)
    hidden = [] if rows else leaderboard(uri=options.tracking_uri, runs=options.runs, everything=True)
    table = leaderboard_table(
        rows,
        hidden=len(hidden),
        sort=options.sort,
        where=options.where,
        published=not options.no_published,
        further=undelivered(options.runs, uri=options.tracking_uri),
    )
    _print(options, Page(tables={"leaderboard": table}))
    return 0


def _compare(options: argparse.Namespace) -> int:
    if options.recorded:
        return _compare_recorded(options)
    from tuning.comparison import compare_results
    from tuning.comparison_page import comparison_page
    from tuning.comparison_pictures import save_pictures

    if options.pictures is not None:
        check_output_folder(options.pictures, option="--pictures")
    with counting("images", plain_console(stderr=True)) as count:
        compared = compare_results(
            [options.first, *options.others],
            runs=options.runs,
            uri=options.tracking_uri,
            common=options.common,
            on_progress=count,
        )
    pictures = save_pictures(compared, options.pictures) if options.pictures is not None else []
    _print(options, comparison_page(compared, pictures=pictures))
    return 0


def _compare_recorded(options: argparse.Namespace) -> int:
    """From the tables in MLflow: no label maps are read."""
    from tuning.compare import compare, comparison_table

    if len(options.others) > 1 or options.common or options.pictures is not None:
        raise ValueError("--recorded compares two results from their tables; --common and --pictures need images")
    result = compare(options.first, options.others[0], uri=options.tracking_uri, runs=options.runs)
    _print(options, Page(tables={"classes": comparison_table(result)}))
    return 0


def _report(options: argparse.Namespace) -> int:
    from tuning.html_report.page import write_report

    check_output_file(options.output, option="--output", endings=(".html", ".htm"))
    with counting("images", plain_console(stderr=True)) as count:
        size = write_report(
            options.names, options.output, runs=options.runs, uri=options.tracking_uri, on_progress=count
        )
    print(f"{options.output} ({size / 1e6:.1f} MB)")
    return 0
