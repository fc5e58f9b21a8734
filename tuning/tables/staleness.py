"""Which results of a table are older than this tree, and what the page says about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuning.tables.declaration import DeclaredTable, TableError
from tuning.tables.digests import Origin
from tuning.tables.measurements import Key, Measurement
from wsss.report.tables import markdown_text

_COMMIT_DIGITS = 10


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A measurement that a table shows, and its rows there."""

    measured: Measurement
    rows: tuple[str, ...]
    older: str
    """Why it is shown although this tree would give another digest; empty if the digest is the same."""
    changes: tuple[str, ...]
    """What has changed since it was measured, as far as that was recorded."""


def checked(
    name: str, table: DeclaredTable, measurements: Mapping[Key, Measurement], origins: Mapping[Key, Origin]
) -> dict[Key, str]:
    """Key -> why an older result is shown, empty for results of this tree.

    Raises `TableError` for a result that is missing, or that is older without a declared reason.
    """
    reasons: dict[Key, str] = {}
    for key, now in origins.items():
        if key not in measurements:
            raise TableError(
                f"table {name}: {_in_words(key)} is not measured: neither in measured/{name}.json nor in a folder of "
                f"runs; run `{table.command}` and `make tables RUNS=FOLDER`"
            )
        measured = measurements[key]
        older = measured.digest != now.digest
        reasons[key] = table.measured_before.get(measured.finished, "") if older else ""
        if older and not reasons[key]:
            what = ", ".join(changes(measured, now)) or "its run record was not kept"
            raise TableError(
                f"table {name}: {_in_words(key)} was measured on {measured.finished} with other settings or code than "
                f"this tree's ({what}); run `{table.command}` and `make tables RUNS=FOLDER`, or give the reason for "
                f"showing the older result in measured_before of declared/{name}.toml"
            )
    return reasons


def unneeded_reasons(
    table: DeclaredTable, measurements: Mapping[Key, Measurement], origins: Mapping[Key, Origin]
) -> list[str]:
    """The dates in `measured_before` of which the table shows no older result."""
    older = {measurements[key].finished for key, now in origins.items() if measurements[key].digest != now.digest}
    return sorted(set(table.measured_before) - older)


def _in_words(key: Key) -> str:
    instance, overrides = key
    return " ".join([instance, *(f"--set {override}" for override in overrides)])


def changes(measured: Measurement, now: Origin) -> tuple[str, ...]:
    """What differs from a measurement in this tree, in words; empty if that was not recorded, or if nothing differs."""
    if not measured.stages or measured.digest == now.digest:
        return ()
    found = [words for stage in now.stages for words in _change(stage, measured.stages.get(stage), now.stages[stage])]
    found += [f"{stage} was removed" for stage in measured.stages if stage not in now.stages]
    # Stages and settings are the same, but the digest is not.
    return tuple(dict.fromkeys(found)) or (("the lists of images",) if measured.digest else ())


def _change(stage: str, before: str | None, now: str) -> list[str]:
    if before is None:
        return [f"{stage} was added"]
    (old_kind, old_revision, old_settings), (kind, revision, settings) = before.split(), now.split()
    found = [f"settings of {stage}"] if (old_kind, old_settings) != (kind, settings) else []
    if old_revision != revision:
        found.append(f"{kind} has revision {revision} (then {old_revision})")
    return found


def provenance(table: DeclaredTable, shown: Sequence[Shown]) -> list[str]:
    """The paragraphs under a table: when, from which commit and by which command, and which results are older."""
    groups: dict[tuple[str, str], list[Shown]] = {}
    for one in shown:
        heading = "Older than the recipe in this tree" if one.measured.digest else "No run record"
        when = f"easured on {one.measured.finished}{_at(one.measured.commit)}"
        first = f"**{heading}**%s: m{when}." if one.older else f"M{when} by `{table.command}`%s."
        groups.setdefault((first, one.older), []).append(one)
    rows = {
        group: tuple(dict.fromkeys(row for one in members for row in one.rows)) for group, members in groups.items()
    }
    named = len({frozenset(some) for some in rows.values()}) > 1  # else every paragraph is about all rows
    lines = []
    for (first, older), members in groups.items():
        text = first % (f" ({'; '.join(map(markdown_text, rows[first, older]))})" if named else "")
        if older:
            text += f" {older.strip()}"
        if changed := dict.fromkeys(words for one in members for words in one.changes):
            text += f" Changes since then: {', '.join(changed)}."
        # One line: a wrapped one might begin with the mark of a list, such as the + of `walk + CRF`.
        lines.append(" ".join(text.split()))
    return lines


def _at(commit: str) -> str:
    clean = commit.removesuffix("-dirty")
    short = clean[:_COMMIT_DIGITS] if " " not in clean else clean
    return f" at commit {short}{' with changes' if clean != commit else ''}" if commit else ""
