from __future__ import annotations

import itertools
import random

from rich.cells import cell_len

from wsss.report.layout import fit, wrap
from wsss.report.tables import Column, Shown, percent, table_of

STEP = Column("step", "step", role="name", wraps=True)
IOU = Column("mean IoU", "mean_iou", right=True)
ACCURACY = Column("mean accuracy", "mean_accuracy", right=True)
NOTE = Column("", "note", role="note")


def test_a_table_that_fits_stands_as_it_is() -> None:
    table = table_of("", [STEP, IOU, NOTE], [["CAM", percent(0.4), "one of two"], ["seeds", None, ""]])
    assert fit(table, 80) == [
        "step   mean IoU",
        "─────  ────────  ──────────",
        "CAM        40.0  one of two",
        "seeds         –",
    ]


def test_notes_go_under_their_rows_before_anything_else_wraps() -> None:
    table = table_of("", [STEP, IOU, NOTE], [["CAM", percent(0.4), "one of two"], ["seeds", None, ""]])
    assert fit(table, 20) == [
        "step   mean IoU",
        "─────  ────────",
        "CAM        40.0",
        "    one of two",
        "seeds         –",
    ]


def test_headers_and_text_wrap_between_words() -> None:
    table = table_of("", [STEP, IOU, ACCURACY], [["a segmentation, one view", percent(0.4), percent(0.5)]])
    assert fit(table, 32) == [
        "step              mean      mean",
        "                   IoU  accuracy",
        "────────────────  ────  ────────",
        "a segmentation,   40.0      50.0",
        "one view",
    ]


def test_a_wide_table_is_split_and_every_part_names_its_rows() -> None:
    columns = [STEP, *(Column(f"class{number}", f"class{number}", right=True) for number in range(6))]
    table = table_of("", columns, [["net", *range(6)]])
    assert fit(table, 30) == [
        "step  class0  class1  class2",
        "────  ──────  ──────  ──────",
        "net        0       1       2",
        "",
        "step  class3  class4  class5",
        "────  ──────  ──────  ──────",
        "net        3       4       5",
    ]


def test_a_path_longer_than_its_column_goes_whole_under_its_row() -> None:
    path = "/" + "x" * 60
    table = table_of(
        "", [Column("name", "name", role="name"), Column("value", "value", wraps=True)], [["root", path], ["size", "3"]]
    )
    lines = fit(table, 40)
    assert lines[2:] == ["root", "    value:", f"    {path}", "size  3"]


def test_a_figure_that_goes_under_its_row_is_in_one_piece() -> None:
    table = table_of("", [STEP, IOU], [["segmentation", Shown(0.35, "35.0 (32.1 to 37.9)")]])
    assert fit(table, 24)[2:] == ["segmentation", "    mean IoU:", "    35.0 (32.1 to 37.9)"]


def test_columns_without_any_value_are_left_out() -> None:
    assert fit(table_of("", [STEP, IOU], [["CAM", None]]), 80) == ["step", "────", "CAM"]


def test_no_word_is_ever_cut_and_no_line_is_longer_than_it_must_be() -> None:
    draw = random.Random(7)
    for width, columns in itertools.product((20, 40, 80), (2, 5, 9)):
        rows = [
            [" ".join("w" * draw.randint(1, 15) for _ in range(draw.randint(1, 4))) for _ in range(columns)]
            for _ in range(5)
        ]
        roles = ["name", *draw.choices(["value", "note"], k=columns - 1)]
        table = table_of(
            "",
            [
                Column(f"h{place}", f"h{place}", wraps=role == "note" or draw.random() < 0.7, role=role)  # type: ignore[arg-type]
                for place, role in enumerate(roles)
            ],
            rows,
        )
        lines = fit(table, width)
        words = " ".join(lines).split()
        for word in {word for row in rows for cell in row for word in cell.split()}:
            assert word in words, f"{word} at {width}"
        for line in lines:
            longest = max(cell_len(" ".join(cell.split())) for row in rows for cell in row)
            assert cell_len(line) <= max(width, longest + 4)


def test_wrapping_counts_terminal_cells_and_indents() -> None:
    assert wrap("日本 日本", 8) == ["日本", "日本"]
    assert wrap("one two three", 9, indent="  ", hanging="    ") == ["  one two", "    three"]
