"""Measurements: what a table needs of run records, stored in `measured/NAME.json` without paths of a machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from shards.files import sha256_of
from shards.records import RunRecord
from tuning.tables.declaration import DeclaredTable, Source, TableError
from tuning.tables.digests import Origin, origin, recipe_without_data, shipped_recipe
from wsss.contract.stage import Instance
from wsss.pipeline.recipe import Recipe, RecipeError, load_recipe
from wsss.stages.evaluate import Evaluate

MEASURED = Path(__file__).parent / "measured"
_DIGITS = 6
"""Decimals of a stored metric; a table shows three of them."""
Key = tuple[str, tuple[str, ...]]
"""Instance, and all --set arguments."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The metrics of one run record, and what they belong to."""

    instance: str
    set: tuple[str, ...]
    digest: str
    """`Origin.digest` of the instance when it was measured; empty if its run record was not kept."""
    stages: Mapping[str, str] = field(default_factory=dict)
    """`Origin.stages` when it was measured."""
    fingerprint: str
    """Fingerprint of the run, with the data; empty if its run record was not kept."""
    commit: str
    """Commit of the code, empty if unknown."""
    finished: str
    """Date, in UTC."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """File of weights -> SHA-256."""
    metrics: Mapping[str, float]

    @property
    def key(self) -> Key:
        return self.instance, self.set


def wanted(name: str, table: DeclaredTable) -> dict[Key, Instance]:
    """Everything that a table shows: the instances, as this tree defines them. Raises `TableError`."""
    if table.layout == "results":
        recipe = _recipe(name, table.recipe, table.set)
        evaluations = [i.name for i in recipe.instances if isinstance(i.stage, Evaluate)]
        sources = [Source(instance=instance) for instance in table.instances or evaluations]
    else:
        sources = [source for row in table.rows for source in row.sources.values()]
    found: dict[Key, Instance] = {}
    for source in sources:
        of_recipe, instance = recipe_and_instance(table, source.instance)
        recipe = _recipe(name, of_recipe, all_overrides(table, source))
        try:
            found[key_of(table, source)] = recipe.instance(instance)
        except RecipeError as error:
            raise TableError(f"table {name}: recipe {of_recipe}: {error}") from None
    return found


def recipe_and_instance(table: DeclaredTable, instance: str) -> tuple[str, str]:
    """`INSTANCE` of the table's recipe, or `RECIPE:INSTANCE` -> names of recipe and instance."""
    recipe, colon, name = instance.rpartition(":")
    return recipe if colon else table.recipe, name


def all_overrides(table: DeclaredTable, source: Source) -> tuple[str, ...]:
    """The --set arguments of a measurement."""
    return (*table.set, *source.set)


def key_of(table: DeclaredTable, source: Source) -> Key:
    """The key of a measurement."""
    return source.instance, all_overrides(table, source)


def _recipe(name: str, recipe: str, overrides: tuple[str, ...]) -> Recipe:
    try:
        return recipe_without_data(recipe, overrides)
    except RecipeError as error:
        raise TableError(f"table {name}: recipe {recipe}: {error}") from None


def from_runs(
    name: str, table: DeclaredTable, *, runs: Path, weights: Path | None
) -> tuple[dict[Key, Measurement], set[str]]:
    """Measurements of the run records in a folder of runs, and reasons why others were not looked for there.

    `weights`: the folder with the table's file of weights.
    """
    found: dict[Key, Measurement] = {}
    reasons: set[str] = set()
    for key, instance in wanted(name, table).items():
        overrides = [*key[1], f"runtime.runs={runs}"]
        files: dict[str, str] = {}
        if table.weights:
            if weights is None or not (weights / table.weights).is_file():
                reasons.add(f"it needs --weights FOLDER, with {table.weights} in it")
                continue
            overrides.append(f"defaults.pretrained={weights / table.weights}")
            files = {table.weights: sha256_of(weights / table.weights)}
        recipe, instance_name = recipe_and_instance(table, key[0])
        try:
            record = load_recipe(shipped_recipe(recipe), overrides).instance(instance_name).run_record()
        except RecipeError as error:
            reasons.add(str(error))
            continue
        if record is not None:
            found[key] = measurement(record, key=key, now=origin(instance), weights=files)
    return found, reasons


def measurement(record: RunRecord, *, key: Key, now: Origin, weights: Mapping[str, str]) -> Measurement:
    """What a table needs of a run record. `now`: the origin of its instance in this tree, which made the record."""
    return Measurement(
        instance=key[0],
        set=key[1],
        digest=now.digest,
        stages=now.stages,
        fingerprint=record.fingerprint,
        commit=record.git_commit,
        finished=f"{datetime.fromtimestamp(record.finished, UTC):%Y-%m-%d}",
        weights=weights,
        metrics=_metrics(record),
    )


def _metrics(record: RunRecord) -> dict[str, float]:
    """The metrics that name a split, whether labels were given, and each class's IoU, F1 and average precision, such as
    `SPLIT.iou.CLASS`."""
    kept = {name: value for name, value in record.metrics.items() if "." in name or name == "labels_given"}
    for name, rows in record.tables.items():
        table, _, split = name.partition(".")
        # A classifier is validated on one split, and its table does not name it.
        split = split or ("val" if record.kind != Evaluate.kind else "")
        if table != "per_class" or not split:
            continue
        for row in rows:
            for score in ("iou", "f1", "average_precision"):
                if row.get(score) is not None:
                    kept[f"{split}.{score}.{row['class']}"] = cast(float, row[score])
    return {name: round(value, _DIGITS) for name, value in sorted(kept.items())}


def read_measurements(name: str, folder: Path = MEASURED) -> dict[Key, Measurement]:
    """The stored measurements of a table, none if it has no file. Raises `TableError`."""
    path = folder / f"{name}.json"
    try:
        stored = json.loads(path.read_text())
        found = [Measurement(**{**entry, "set": tuple(entry["set"])}) for entry in stored]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise TableError(f"{path.name} cannot be read: {error}") from None
    return {one.key: one for one in found}


def as_json(measurements: Iterable[Measurement]) -> str:
    """The content of `measured/NAME.json`: a line for every field of every measurement."""
    entries = []
    for one in measurements:
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(one).items()]
        entries.append("{\n" + ",\n".join(lines) + "\n}")
    return "[\n" + ",\n".join(entries) + "\n]\n"
