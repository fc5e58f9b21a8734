"""The inputs of a stage: what may fill a slot is said by what flows, never by which stage made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shards.records import Record


class Slot(Protocol):
    """An input of a stage."""

    def accepts(self, stage: type) -> bool:
        """True if instances of this class of stage may fill the slot."""
        ...

    def must_be_named(self, stage: type) -> bool:
        """True if such an instance fills the slot only where a recipe names it under `inputs`.

        Otherwise the latest fitting instance before the stage is taken.
        """
        ...

    def __str__(self) -> str:
        """What fills the slot, for messages."""
        ...


@dataclass(frozen=True)
class Records:
    """A slot for a layer of records of one of these types."""

    types: tuple[type[Record], ...]
    only_named: tuple[type[Record], ...] = ()
    """Types among them that are never taken unless a recipe names them."""

    def accepts(self, stage: type) -> bool:
        return getattr(stage, "record_kind", None) in {record.kind for record in self.types}

    def must_be_named(self, stage: type) -> bool:
        return getattr(stage, "record_kind", None) in {record.kind for record in self.only_named}

    def __str__(self) -> str:
        return f"records of kind {' or '.join(record.kind for record in self.types)}"


@dataclass(frozen=True)
class Trained:
    """A slot for a training: any stage of this class, which says what its trained network offers."""

    training: type

    def accepts(self, stage: type) -> bool:
        return issubclass(stage, self.training)

    def must_be_named(self, stage: type) -> bool:
        return False

    def __str__(self) -> str:
        return f"a trained {getattr(self.training, 'trains', self.training.__name__)}"
