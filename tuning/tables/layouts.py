"""From measurements to Markdown: the two layouts of a declared table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from shards.records import RunRecord
from tuning.tables.declaration import DeclaredTable, Source, TableColumn, TableError, TableRow
from tuning.tables.digests import image_set, origin, recipe_without_data
from tuning.tables.measurements import Key, Measurement, key_of, wanted
from tuning.tables.staleness import Shown, changes, checked, provenance
from wsss.contract.stage import Instance
from wsss.report.results_table import result_rows, results_table
from wsss.report.tables import Cell, Column, Table, markdown, table_of


def render(name: str, table: DeclaredTable, measurements: Mapping[Key, Measurement]) -> str:
    """The text between the marks of a table. Raises `TableError` if a result is missing, or older without a reason."""
    instances = wanted(name, table)
    origins = {key: origin(instance) for key, instance in instances.items()}
    reasons = checked(name, table, measurements, origins)
    if table.layout == "results":
        made, rows = _results(table, measurements), _titles(instances)
    else:
        made, rows = _Cells(name, table, measurements, instances).table(), _rows_of(table)
    shown = [
        Shown(measured=one, rows=rows[key], older=reasons[key], changes=changes(one, now))
        for key, now in origins.items()
        if (one := measurements[key])
    ]
    return "\n".join([_unescaped(markdown(made)), *(f"{line}\n" for line in provenance(table, shown))])


def _unescaped(text: str) -> str:
    """`markdown` escapes asterisks; those around the best value are meant."""
    return text.replace(r"\*\*", "**")


def _results(table: DeclaredTable, measurements: Mapping[Key, Measurement]) -> Table:
    """The rows of `wsss results`, from stored metrics."""
    recipe = recipe_without_data(table.recipe, table.set)
    stored = {key[0]: one for key, one in measurements.items() if key[1] == table.set}
    chosen = table.instances or tuple(stored)
    records = {name: _record(table, stored[name]) for name in chosen}
    return _without_empty_columns(results_table(result_rows(recipe, records), title=recipe.settings.name))


def _without_empty_columns(table: Table) -> Table:
    """Without scores that no run record has: older ones lack those that were added later."""
    kept = [place for place in range(len(table.columns)) if any(row[place] not in (None, "") for row in table.rows)]
    rows = tuple(tuple(row[place] for place in kept) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _record(table: DeclaredTable, stored: Measurement) -> RunRecord:
    return RunRecord(
        recipe=table.recipe,
        instance=stored.instance,
        kind="evaluate",
        fingerprint=stored.fingerprint,
        settings={},
        upstream={},
        git_commit=stored.commit,
        metrics=dict(stored.metrics),
    )


def _titles(instances: Mapping[Key, Instance]) -> dict[Key, tuple[str, ...]]:
    return {key: (getattr(instance.stage, "title", "") or instance.name,) for key, instance in instances.items()}


def _rows_of(table: DeclaredTable) -> dict[Key, tuple[str, ...]]:
    found: dict[Key, tuple[str, ...]] = {}
    for row in table.rows:
        for source in row.sources.values():
            key = key_of(table, source)
            found[key] = (*found.get(key, ()), ", ".join(text for text in row.text if text))
    return found


@dataclass(frozen=True)
class _Cells:
    """The layout `cells`: every cell is text, or metrics of one of the row's measurements."""

    name: str
    declared: DeclaredTable
    measurements: Mapping[Key, Measurement]
    instances: Mapping[Key, Instance]

    def table(self) -> Table:
        for row in self.declared.rows:
            self._check_row(row)
        for column in self.declared.columns:
            self._check_column(column)
        by_column = [self._column(place, column) for place, column in enumerate(self.declared.columns)]
        columns = [
            Column(column.title, f"column{place}", right=bool(column.metric) or all(map(_is_number, cells)))
            for place, (column, cells) in enumerate(zip(self.declared.columns, by_column, strict=True))
        ]
        return table_of(self.name, columns, [list(cells) for cells in zip(*by_column, strict=True)])

    def _column(self, place: int, column: TableColumn) -> list[Cell]:
        if not column.metric:
            text = sum(not before.metric for before in self.declared.columns[:place])
            return [row.text[text] for row in self.declared.rows]
        values = [self._values(row, column) for row in self.declared.rows]
        if column.less:
            subtracted = [self._values(row, replace(column, source=column.less)) for row in self.declared.rows]
            values = [
                [one - other for one, other in zip(found, less, strict=False)]
                for found, less in zip(values, subtracted, strict=True)
            ]
        texts = [
            self._shown(row, column, found) if found else ""
            for row, found in zip(self.declared.rows, values, strict=True)
        ]
        if column.best:
            best = max(found[0] for found in values if found)
            texts = [
                f"**{text}**" if found and found[0] == best else text for text, found in zip(texts, values, strict=True)
            ]
        return list[Cell](texts)

    def _values(self, row: TableRow, column: TableColumn) -> list[float]:
        """The metrics of a cell; none if the row has no such source, or the source was not measured on that split."""
        if column.source not in row.sources or (column.show == "share" and not row.of):
            return []
        key = key_of(self.declared, row.sources[column.source])
        metrics = self.measurements[key].metrics
        missing = [name for name in column.metric if name not in metrics]
        if not missing:
            return [metrics[name] for name in column.metric]
        split = missing[0].partition(".")[0]
        if column.optional or not any(name.startswith(f"{split}.") for name in metrics):
            return []
        raise TableError(
            f"table {self.name}: the run record of {key[0]} has no metric {missing[0]}; it has {', '.join(metrics)}"
        )

    def _shown(self, row: TableRow, column: TableColumn, values: Sequence[float]) -> str:
        if column.show == "number":
            return ", ".join(f"{value:.2f}" for value in values)
        if column.show == "share":
            (other,) = [other for other in self.declared.rows if other.text[0] == row.of]
            (whole,) = self._values_of_whole(other, row, column)
            return f"{values[0] / whole:.0%} of {100 * whole:.1f}".replace("%", " %")
        sign = "+" if column.show == "difference" else ""
        text = " / ".join(f"{100 * value:{sign}.1f}" for value in values)
        if column.show == "interval":
            metrics = self.measurements[key_of(self.declared, row.sources[column.source])].metrics
            ends = [metrics.get(f"{column.metric[0]}_{end}") for end in ("low", "high")]
            if None not in ends:
                text += " ({:.1f} to {:.1f})".format(*(100 * end for end in ends if end is not None))
        return text

    def _values_of_whole(self, whole: TableRow, part: TableRow, column: TableColumn) -> list[float]:
        """The value that a share divides by; it must be of the same images."""
        if column.source not in whole.sources:
            raise TableError(f"table {self.name}: row {whole.text[0]!r} has no source {column.source!r} to divide by")
        split = column.metric[0].partition(".")[0]
        sides = [self._images(row.sources[column.source], split) for row in (part, whole)]
        if _differ(*sides):
            raise TableError(
                f"table {self.name}: {part.text[0]!r} and {whole.text[0]!r} are compared, but are measured on "
                f"different images: {sides[0]} and {sides[1]}"
            )
        key = key_of(self.declared, whole.sources[column.source])
        return [self.measurements[key].metrics[name] for name in column.metric]

    def _check_column(self, column: TableColumn) -> None:
        """Refuse a column whose cells are measured on different images: its reader compares them."""
        first: tuple[str, _Images] | None = None
        for row in self.declared.rows:
            if not column.metric or not self._values(row, column):
                continue
            images = self._images(row.sources[column.source], column.metric[0].partition(".")[0])
            first = first or (row.text[0], images)
            if _differ(first[1], images):
                raise TableError(
                    f"table {self.name}: column {column.title!r} mixes image sets: {first[0]!r} is measured on "
                    f"{first[1]}, {row.text[0]!r} on {images}; use two tables, or sources of the same images"
                )

    def _check_row(self, row: TableRow) -> None:
        """Refuse a row whose cells of one split are measured on different images."""
        of_split: dict[str, tuple[str, _Images]] = {}
        for column in self.declared.columns:
            read = [row.sources[name] for name in (column.source, column.less) if name in row.sources]
            for source, metric in product(read, column.metric):
                split = metric.partition(".")[0]
                images = self._images(source, split)
                first, known = of_split.setdefault(split, (column.title, images))
                if _differ(known, images):
                    raise TableError(
                        f"table {self.name}: row {row.text[0]!r} mixes image sets: {first!r} is measured on {known}, "
                        f"{column.title!r} on {images}; use two rows, or sources of the same images"
                    )

    def _images(self, source: Source, split: str) -> _Images:
        key = key_of(self.declared, source)
        return _Images(
            split=split,
            name=self.instances[key].samples.name,
            digest=image_set(self.instances[key], split),
            number=self.measurements[key].metrics.get(f"{split}.images"),
        )


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The images that a cell is measured on; their number is None if the run record does not have it."""

    split: str
    name: str
    digest: str
    number: float | None

    def __str__(self) -> str:
        number = "" if self.number is None else f", {self.number:.0f} images"
        return f"{self.split} of {self.name} ({self.digest}{number})"


def _differ(one: _Images, other: _Images) -> bool:
    numbers = {one.number, other.number} - {None}
    return one.split != other.split or one.digest != other.digest or len(numbers) > 1


def _is_number(cell: Cell) -> bool:
    try:
        return bool(float(str(cell)) + 1)
    except ValueError:
        return False
