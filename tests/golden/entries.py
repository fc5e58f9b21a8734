"""The golden entries: how they are kept, added and compared.

An entry belongs to a case and to the revisions of all stages that its result descends from. There may be several of a
case, one after each raised revision; none is ever changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.golden.packages import Case, Run
from tests.golden.results import Values

GOLDEN = Path(__file__).with_name("golden.json")
STABLE_KINDS = frozenset({"build_shards"})
"""Kinds whose records are copied, not computed: their contents are equal on every CPU."""


class ChangedEntryError(ValueError):
    """An entry that is there would have become another one."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a case left, at one set of revisions."""

    case: str
    kind: str
    revisions: Mapping[str, int]
    made_at: str
    """Commit of the package that it was made with."""
    settings: Mapping[str, Any]
    """The case's table in cases.toml when it was made, for readers; nothing compares it."""
    content: str
    environment: str
    """Id of the CPU and the libraries that the digest and the values were computed with."""
    digest: str
    values: Values


def environment_id(versions: Mapping[str, str]) -> str:
    """A short name for a CPU and the versions of libraries."""
    return hashlib.sha256(json.dumps(dict(versions), sort_keys=True).encode()).hexdigest()[:8]


def entry_of(case: Case, *, name: str, run: Run, made_at: str, settings: Mapping[str, Any]) -> Entry:
    """The entry that a case would add. Raises ValueError for a case that failed."""
    if case.result is None:
        raise ValueError(f"the case {name} failed:\n{case.failure}")
    return Entry(
        case=name,
        kind=case.kind,
        revisions=dict(case.revisions),
        made_at=made_at,
        settings=settings,
        content=case.result.content,
        environment=environment_id(run.versions),
        digest=case.result.digest,
        values=case.result.values,
    )


@dataclass
class Golden:
    """All entries, and the environments that they were made in."""

    environments: dict[str, dict[str, str]]
    entries: list[Entry]

    def find(self, name: str, revisions: Mapping[str, int]) -> Entry | None:
        """The entry of a case at these revisions."""
        same = (one for one in self.entries if one.case == name and dict(one.revisions) == dict(revisions))
        return next(same, None)

    def add(self, entry: Entry) -> None:
        """Append an entry. Raises `ChangedEntryError` where there is one of the same case and revisions."""
        if self.find(entry.case, entry.revisions) is not None:
            raise ChangedEntryError(
                f"{entry.case} has an entry at revisions {words(entry.revisions)}; entries are added, never changed. "
                f"If its result is meant to change, raise the revision of the stage that makes the difference"
            )
        self.entries.append(entry)

    def to_text(self) -> str:
        """JSON with an entry a line."""
        lines = [json.dumps(asdict(entry), sort_keys=True) for entry in self.entries]
        environments = json.dumps(self.environments, sort_keys=True)
        return f'{{"environments": {environments},\n"entries": [\n' + ",\n".join(lines) + "\n]}\n"

    @classmethod
    def from_text(cls, text: str) -> Golden:
        content = json.loads(text)
        return cls(content["environments"], [Entry(**entry) for entry in content["entries"]])

    @classmethod
    def read(cls) -> Golden:
        """The committed entries; none where there is no file yet."""
        return cls.from_text(GOLDEN.read_text()) if GOLDEN.exists() else cls({}, [])


def words(revisions: Mapping[str, int]) -> str:
    """Revisions on one line."""
    return ", ".join(f"{kind} {revision}" for kind, revision in sorted(revisions.items()))


def fingerprint_of(entries: list[Entry]) -> str:
    """A digest of entries, in their order."""
    text = "\n".join(json.dumps(asdict(entry), sort_keys=True) for entry in entries)
    return hashlib.sha256(text.encode()).hexdigest()
