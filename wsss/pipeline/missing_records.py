"""Records that a layer lacks: how many there are and why, and when there are too many to go on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from shards.layer import INDEX
from shards.wording import counted
from wsss.contract.stage import Instance, Outcome

SHOWN_MISSING = 3


class TooManyMissingError(RuntimeError):
    """More records of a layer are missing than the recipe allows."""


def missing_in_words(instance: Instance) -> str:
    """How many records of a complete layer are missing, and the first reasons; "" if none is."""
    missing = instance.layer.counts()["missing"]
    return f"{counted(missing, 'record')}:{_some(instance)}" if missing else ""


def replaced_notes(outcome: Outcome, folder: Path) -> list[str]:
    """A note on the training examples that could not be read, from the history of the epochs."""
    rows = enumerate(outcome.tables.get("history", []), start=1)
    found = {epoch: int(str(row["unreadable"])) for epoch, row in rows if row.get("unreadable")}
    if not found:
        return []
    of_epochs = ", ".join(f"{number} of epoch {epoch}" for epoch, number in islice(found.items(), SHOWN_MISSING))
    more = ", …" * (len(found) > SHOWN_MISSING)
    return [
        f"{counted(sum(found.values()), 'example')} could not be read and were replaced by others ({of_epochs}{more}); "
        f"{folder}/faults.rank-*.txt names each"
    ]


def require_records(instance: Instance, *, most: float) -> None:
    """Raise `TooManyMissingError` if more than this share of a layer's records is missing, of all or of a split: a
    small split may be lost among many images. One missing record alone is never too many of a split."""
    counts, name = instance.layer.counts(), instance.name
    missing, total = counts["missing"], sum(counts.values())
    for split, reasons in instance.layer.left_out().items():
        if counts.get(split, 0) == missing == 0:
            key, reason = next(iter(reasons.items()))
            raise TooManyMissingError(
                f"{name} has no record of split {split!r}: its settings or those of earlier stages excluded all "
                f"{len(reasons)}, for example {key}: {reason}; check min_probability, dropped_classes, only_classes "
                "and unknown_classes"
            )
    where = ""
    for split, number in instance.layer.missing_of_splits().items():
        of_split = number + counts.get(split, 0)
        if number > max(1, most * of_split) or (number == of_split and most < 1):
            missing, total, where = number, of_split, f" of split {split!r}"
    if total == 0 or missing == total or missing > most * total:
        raise TooManyMissingError(
            f"{name}: {missing} of {counted(total, 'record')}{where} missing, more than runtime.max_missing = {most} "
            f"allows:{_some(instance)}\n"
            f"All reasons are in {instance.layer.path / INDEX}.\n"
            f"Fix these files, delete {instance.path} and start again; or raise runtime.max_missing"
        )


def _some(instance: Instance) -> str:
    """The first missing records of a layer with their reasons, each on a line."""
    reasons = islice(instance.layer.missing(), SHOWN_MISSING)
    return "".join(f"\n  {missing.key}: {missing.reason}" for missing in reasons)
