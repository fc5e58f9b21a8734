from __future__ import annotations

import csv
import io
import json
import shlex
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT
from wsss.report.printing import print_page
from wsss.report.tables import (
    Column,
    Page,
    Shown,
    Table,
    as_csv,
    as_json,
    joined,
    markdown,
    percent,
    plain,
    printable,
    table_of,
)

COLUMNS = (
    Column("step", "step", role="name"),
    Column("mean IoU", "mean_iou", right=True),
    Column("low", "low", role="data"),
    Column("used", "used"),
    Column("", "note", role="note"),
)
TABLE = Table(
    title="results",
    columns=COLUMNS,
    rows=(
        ("CAM | seeds", percent(0.4567), 0.25, True, "two words"),
        ("日本", None, None, False, ""),
    ),
    notes=("a note",),
)


def test_a_pipe_gets_one_line_per_row_in_columns_two_spaces_apart() -> None:
    assert plain(TABLE).splitlines() == [
        "results",
        "step         mean IoU  used",
        "CAM | seeds      45.7  yes   two words",
        "日本                -  no    -",
        "a note",
    ]


def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert markdown(TABLE).splitlines() == [
        "| step | mean IoU | used |  |",
        "| --- | ---: | --- | --- |",
        "| CAM \\| seeds | 45.7 | yes | two words |",
        "| 日本 |  | no |  |",
    ]


def test_csv_and_json_hold_values_and_not_their_texts() -> None:
    (first, second) = csv.DictReader(io.StringIO(as_csv(TABLE)))
    assert first == {"step": "CAM | seeds", "mean_iou": "0.4567", "low": "0.25", "used": "true", "note": "two words"}
    assert (second["mean_iou"], second["used"]) == ("", "false")
    content = json.loads(as_json(Page(heading=("about",), tables={"results": TABLE})))
    assert content["notes"] == ["about", "a note"]
    assert content["results"][0] == {
        "step": "CAM | seeds", "mean_iou": 0.4567, "low": 0.25, "used": True, "note": "two words",
    }  # fmt: skip
    assert content["results"][1]["mean_iou"] is None


def test_a_list_is_json_in_csv_and_in_json() -> None:
    table = table_of("", [Column("value", "value")], [[Shown([1, 2], "[1, 2]")]])
    assert as_csv(table) == 'value\n"[1, 2]"\n'
    assert json.loads(as_json(Page(tables={"t": table}))) == {"t": [{"value": [1, 2]}]}


def test_a_row_is_one_line_whatever_its_text_holds() -> None:
    assert printable("a\nb\t\x1b[31mred\udc80") == "a\\nb\\t\\x1b[31mred\\udc80"
    table = table_of("t", [Column("name", "name")], [["two\nlines"]])
    assert plain(table).splitlines() == ["t", "name", "two\\nlines"]


def test_words_that_rich_takes_as_markup_are_printed_as_written() -> None:
    out = io.StringIO()
    print_page(Page(heading=("[bold]x[/]",), tables={"t": table_of("[/]", [Column("n", "n")], [["[red]"]])}), out=out)
    assert out.getvalue().splitlines() == ["[bold]x[/]", "", "[/]", "n", "[red]"]


def test_a_row_needs_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells for 2 columns"):
        table_of("t", [Column("a", "a"), Column("b", "b")], [["x"]])


def test_one_of_several_tables_is_chosen_by_name() -> None:
    tables = {"one": table_of("", [Column("a", "a")], [[1]]), "two": table_of("", [Column("b", "b")], [[2]])}
    for only, expected in (("", "b\n2\n"), ("one", "a\n1\n")):
        out = io.StringIO()
        print_page(Page(tables=tables, main="two"), form="csv", only=only, out=out)
        assert out.getvalue() == expected
    with pytest.raises(ValueError, match="--table three: unknown table; there are one, two"):
        print_page(Page(tables=tables), only="three")


def test_tables_of_several_pages_have_the_columns_of_all() -> None:
    one = Page(tables={"t": table_of("", [Column("a", "a"), Column("b", "b")], [[1, 2]])})
    two = Page(tables={"t": table_of("", [Column("a", "a"), Column("c", "c")], [[3, 4]])})
    assert as_csv(joined([one, two]).tables["t"]) == "a,b,c\n1,2,\n3,,4\n"


def test_a_reader_that_has_read_enough_is_no_fault() -> None:
    command = f"{shlex.quote(sys.executable)} -m wsss show toy --table settings | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[0] == "settings"
    assert done.stdout.splitlines()[1] in ("0", "141"), "0 where all was written before head ended"
    assert done.stderr == ""
