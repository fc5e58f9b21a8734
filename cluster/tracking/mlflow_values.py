"""Names, parameters, metrics and tables in the form that MLflow accepts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.tracking.mlflow_store import LONGEST_PARAM

_SHOWN_SETTINGS = 3
"""Settings in a run's name: with more, it would be cut in MLflow's pages."""


def key(name: str) -> str:
    """A name that MLflow accepts: letters, digits and `_ / . - : space`."""
    return re.sub(r"[^\w/.\- :]", "_", name)


def param_value(value: object) -> str:
    """A setting's value as text."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 1] + "…"


def as_table(rows: Sequence[Mapping[str, object]]) -> dict[str, list[Any]]:
    """Rows in the format of MLflow's table files; NaN becomes null, since JSON has no NaN."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return {"columns": columns, "data": [[_no_nan(row.get(column)) for column in columns] for row in rows]}


def _no_nan(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time."""
    return round(seconds * 1000)


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in parts of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def without_repeats(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without those that repeat another one: an evaluation has `mean_iou` and the same as `val.mean_iou`."""
    split = {name.partition(".")[2] for name in metrics if "." in name}
    return {name: value for name, value in metrics.items() if name not in split}


def run_name(recipe: str, changed: Mapping[str, object]) -> str:
    """What distinguishes a pipeline: its recipe, and the settings that differ from it."""
    short = [name.rpartition(".")[2] for name in changed]
    shown = []
    for name, last in list(zip(changed, short, strict=True))[:_SHOWN_SETTINGS]:
        shown.append(f"{last if short.count(last) == 1 else name} {_shown_value(changed[name])}")
    if len(short) > _SHOWN_SETTINGS:
        shown.append(f"{len(short) - _SHOWN_SETTINGS} more")
    return ", ".join([recipe, *shown])


def _shown_value(value: object) -> str:
    text = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def in_words(changed: Mapping[str, object]) -> str:
    """Changed settings as text."""
    return ", ".join(f"{name} = {json.dumps(value)}" for name, value in changed.items())
