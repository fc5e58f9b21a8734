"""The inputs of a stage: a slot accepts a type of record, of trained network or of computed files, whichever stage made
it."""

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
        """True if such an instance fills the slot only if a recipe names it under `inputs`.

        Otherwise the last matching instance before the stage is used.
        """
        ...

    def __str__(self) -> str:
        """What the slot accepts, for messages."""
        ...


@dataclass(frozen=True)
class Records:
    """A slot for a layer of records of one of these types."""

    types: tuple[type[Record], ...]
    only_named: tuple[type[Record], ...] = ()
    """Those of `types` that are never used unless a recipe names their instance."""

    def accepts(self, stage: type) -> bool:
        return getattr(stage, "record_kind", None) in {record.kind for record in self.types}

    def must_be_named(self, stage: type) -> bool:
        return getattr(stage, "record_kind", None) in {record.kind for record in self.only_named}

    def __str__(self) -> str:
        return f"records of kind {' or '.join(record.kind for record in self.types)}"


@dataclass(frozen=True)
class Trained:
    """A slot for a training: any stage of this class, which defines what its trained network provides."""

    training: type

    def accepts(self, stage: type) -> bool:
        return issubclass(stage, self.training)

    def must_be_named(self, stage: type) -> bool:
        return False

    def __str__(self) -> str:
        return f"a trained {getattr(self.training, 'trains', self.training.__name__)}"


@dataclass(frozen=True)
class Computed:
    """A slot for files that a stage of this class computes from a whole data set; the class says what they are."""

    stage: type

    def accepts(self, stage: type) -> bool:
        return issubclass(stage, self.stage)

    def must_be_named(self, stage: type) -> bool:
        return False

    def __str__(self) -> str:
        return str(getattr(self.stage, "computes", self.stage.__name__))
