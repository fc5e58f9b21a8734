"""Write the tables: measurements from a folder of runs where it has them, then the blocks of the pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shards.files import write_bytes
from tuning.tables.declaration import PAGES, DeclaredTable, TableError, read_declarations, read_other_tables
from tuning.tables.digests import origin
from tuning.tables.layouts import render
from tuning.tables.measurements import Key, Measurement, as_json, from_runs, read_measurements, wanted
from tuning.tables.pages import check_other_tables, with_tables
from tuning.tables.staleness import unneeded_reasons

ROOT = Path(__file__).resolve().parents[2]
_FOLDER = Path(__file__).parent.relative_to(ROOT)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders and files that the tables are read from and written to."""

    root: Path = ROOT
    """The checkout, with its pages."""

    @property
    def declared(self) -> Path:
        return self.root / _FOLDER / "declared"

    @property
    def measured(self) -> Path:
        return self.root / _FOLDER / "measured"

    @property
    def not_measured(self) -> Path:
        return self.root / _FOLDER / "not_measured.toml"


def changed_files(
    places: Places, *, runs: Path | None = None, weights: Path | None = None, say: Callable[[str], None] = print
) -> dict[Path, str]:
    """Path -> new text, of every file that differs from what run records and declarations give.

    `runs`: a folder of runs; without it, the stored measurements are used alone. `weights`: the folder with the files
    of weights. Raises `TableError`, before anything is written.
    """
    declared = read_declarations(places.declared)
    texts: dict[Path, str] = {}
    blocks: dict[str, str] = {}
    for name, table in declared.items():
        measurements = _measurements(name, table, places, runs=runs, weights=weights, say=say)
        blocks[name] = render(name, table, measurements)
        _check_reasons(name, table, measurements, say=None if runs is None else say)
        texts[places.measured / f"{name}.json"] = as_json(measurements[key] for key in wanted(name, table))
    others = read_other_tables(places.not_measured)
    for page in PAGES:
        text = _page(places.root / page)
        check_other_tables(page, text, others)
        texts[places.root / page] = with_tables(page, text, blocks, declared)
    if strange := sorted(path.name for path in places.measured.glob("*.json") if path not in texts):
        raise TableError(f"measured/{strange[0]} belongs to no declared table; remove it")
    return {path: text for path, text in texts.items() if not path.is_file() or path.read_text() != text}


def _measurements(
    name: str,
    table: DeclaredTable,
    places: Places,
    *,
    runs: Path | None,
    weights: Path | None,
    say: Callable[[str], None],
) -> Mapping[Key, Measurement]:
    stored = read_measurements(name, places.measured)
    if runs is None:
        return stored
    found, reasons = from_runs(name, table, runs=runs, weights=weights)
    say(
        f"{name}: {len(found)} of {len(wanted(name, table))} results in {runs}"
        + "".join(f"; {why}" for why in sorted(reasons))
    )
    return stored | found


def _check_reasons(
    name: str, table: DeclaredTable, measurements: Mapping[Key, Measurement], *, say: Callable[[str], None] | None
) -> None:
    """Refuse a reason for results that the table no longer shows; only say so where new results have replaced them."""
    origins = {key: origin(instance) for key, instance in wanted(name, table).items()}
    for date in unneeded_reasons(table, measurements, origins):
        text = f"table {name}: it shows no older result of {date}; remove that date from measured_before"
        if say is None:
            raise TableError(text)
        say(text)


def _page(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror}; tables are written in a checkout") from None


def write(texts: Mapping[Path, str]) -> None:
    """Write each file under a temporary name and rename it; results before the pages that show them."""
    for path in sorted(texts, key=lambda path: path.suffix):  # .json, then .md
        write_bytes(path, texts[path].encode())
