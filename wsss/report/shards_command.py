"""`wsss shards info|lint|preview`."""

from __future__ import annotations

import argparse

from rich.console import Console

from shards.opened import opened
from shards.output_places import check_output_folder
from wsss.report.printing import print_page
from wsss.report.show_layer import info, look
from wsss.report.tables import Page, joined, printable
from wsss.stages.data_sets.shards import tars_of_run


def run(options: argparse.Namespace, *, console: Console) -> int:
    """Run the action that the options name on each path; returns the exit status, 1 if a layer has faults."""
    if options.pictures is not None:
        check_output_folder(options.pictures, option="--pictures")
    pages: list[Page] = []
    faults = 0
    for place in options.paths:
        with opened(place, tars=tars_of_run(place)) as layer:
            if options.action == "info":
                page, picture = info(layer, pictures=options.pictures)
                pages.append(page)
                if options.form == "text":
                    print_page(page, only=options.table or "")
                    if picture is not None:
                        print(picture)
                continue
            for line in look(layer, options.action, pictures=options.pictures, console=console):
                print(printable(line.text))
                faults += line.is_fault
    if pages and options.form != "text":
        print_page(joined(pages), form=options.form, only=options.table or "")
    return 1 if faults else 0
