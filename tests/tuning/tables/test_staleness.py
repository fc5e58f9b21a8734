"""What a page says under a table."""

from __future__ import annotations

from tuning.tables.declaration import read_declarations
from tuning.tables.measurements import Measurement
from tuning.tables.staleness import Shown, provenance


def test_rows_are_not_listed_if_every_measurement_is_of_all_of_them() -> None:
    def shown(commit: str, *rows: str) -> Shown:
        measured = Measurement(
            instance="evaluate", set=(), digest="d", fingerprint="f", commit=commit, finished="2026-11-29", metrics={}
        )
        return Shown(measured=measured, rows=rows, older="", changes=())

    table = read_declarations()["best_short"]
    assert provenance(
        table, [shown("a1", "maps"), shown("a1", "labels"), shown("b2", "maps"), shown("b2", "labels")]
    ) == [
        "Measured on 2026-11-29 at commit a1 by `wsss run best`.",
        "Measured on 2026-11-29 at commit b2 by `wsss run best`.",
    ]
    assert provenance(table, [shown("a1", "maps"), shown("b2", "labels")])[0].endswith("by `wsss run best` (maps).")
