"""The contract of a stage, and of an instance: a stage with its place in a recipe.

A stage is a frozen dataclass: its fields are its settings, its class attributes say what it reads, its methods say
how. Three kinds, one verb of the runtime each:

| kind | offers | the runtime's verb |
|---|---|---|
| `Fit` | a training task and its data | `fit` |
| `Map` | a worker: one shard in, records of one shard out | `map` |
| `Reduce` | a counter: one shard in, integer counts out; and what to make of their sum | `reduce` |

Stages never see Ray, DeepSpeed, MLflow or a rank.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from shards.files import write_bytes
from shards.layer import Layer, ShardError, split_of
from shards.reader import join_shard
from shards.records import BadSampleError, Missing, Record, RunRecord
from shards.remote_tars import RemoteTars
from shards.taxonomy import Taxonomy
from wsss.contract.counts import Counts
from wsss.contract.settings import settings

if TYPE_CHECKING:
    from wsss.stages.build_shards import BuildShards

RUN_RECORD = "run.json"


def _distinct(splits: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(splits)) < len(splits):
        raise ValueError("every split once")
    return splits


SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Splits = Annotated[tuple[SplitName, ...], Field(min_length=1), AfterValidator(_distinct)]
"""A setting: names of splits. They become names of files."""
ShardWorker = Callable[[str], Iterator[Record | Missing]]
ShardCounter = Callable[[str], Counts]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage found out, apart from the records or weights it wrote."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)


@settings
class Stage:
    """A named step with settings. `slots` says, for every input, which kinds of stage may fill it."""

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raised by hand whenever the same settings would give another result: it enters the fingerprint."""
    slots: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    optional_slots: ClassVar[frozenset[str]] = frozenset()
    named_kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds that fill a slot only where a recipe names them under `inputs`, never by standing last before the stage."""

    def used_slots(self) -> tuple[str, ...]:
        """The slots that these settings read; the others stay empty."""
        return tuple(self.slots)

    def supervision(self) -> Literal["image", "semi", "full"]:
        """Labels that these settings train with: image-level labels, masks of some images, masks of all."""
        return "image"

    def reads_boxes(self) -> bool:
        """True where these settings train with boxes, annotated or made."""
        return False

    def signature(self) -> str:
        """What enters the fingerprint besides settings and inputs: a hash of data that lies outside the run."""
        return ""

    def is_intact(self, instance: Instance) -> bool:
        """True where what the finished stage made is still whole, as far as a look at names and sizes tells."""
        return True

    def check(self, instance: Instance) -> None:
        """Raise ValueError where settings and inputs do not fit together, before anything runs."""

    def preview(self, instance: Instance) -> list[str]:
        """Lines that `wsss show` prints of this stage before it runs: what the data that are there let foresee."""
        return []

    def check_environment(self, instance: Instance) -> None:
        """Raise ValueError where this machine's libraries cannot do what the settings ask.

        Asked before anything runs, and only of stages that would run: unlike `check` it may import what takes seconds.
        """


@settings
class Map(Stage):
    """A stage that makes one record (or a `Missing`) for every record it is given, shard by shard."""

    record_kind: ClassVar[str]
    aligned_with: ClassVar[str] = "samples"
    """The slot whose shards this stage's shards stand beside; `samples` where it is not filled."""
    uses_torch: ClassVar[bool] = True
    """False where the worker computes without torch, which it is then not given."""

    splits: Splits = ("train", "val")
    """Splits to work on."""
    max_shards: Annotated[int, Field(ge=1)] | None = None
    """At most this many shards of each split, from the front; all of them where not given."""

    def shards(self, instance: Instance) -> list[str]:
        """The shards this stage writes, in order."""
        aligned_with = self.aligned_with if self.aligned_with in instance.inputs else "samples"
        upstream = instance.inputs[aligned_with].layer.shards()
        chosen = [_first([s for s in upstream if split_of(s) == split], self.max_shards) for split in self.splits]
        if empty := [split for split, names in zip(self.splits, chosen, strict=True) if not names]:
            have = sorted({split_of(shard) for shard in upstream})
            raise ValueError(f"{instance.name}.splits names {empty[0]!r}; {aligned_with} has {', '.join(have)}")
        return [name for names in chosen for name in names]

    def is_intact(self, instance: Instance) -> bool:
        try:
            return instance.layer.is_complete(self.shards(instance))
        except ShardError:  # what it reads is not complete any more
            return False

    def tars(self) -> RemoteTars | None:
        """Where the tars of this stage's layer lie, if not in its own folder."""
        return None

    def prepare(self, instance: Instance) -> None:
        """Write down, once and before the first shard, what all workers must agree on. Called again on every resume."""

    def take(self, instance: Instance, shard: str) -> bool:
        """Take over a shard that was made elsewhere, in place of making it; False where there is none."""
        return False

    @abstractmethod
    def worker(self, instance: Instance) -> ShardWorker:
        """Load what the work needs (once per actor) and return the function from a shard's name to its records."""


def work_per_record(
    layers: Mapping[str, Layer],
    make: Callable[[Mapping[str, Record]], Record],
    *,
    leave_out: Callable[[Mapping[str, Record], str], Missing | None] | None = None,
) -> ShardWorker:
    """The worker that joins `layers` (one of them `samples`) by key and makes one record of each group.

    What is missing in a layer is passed on as missing; where `make` raises `BadSampleError` its text is the reason.
    `leave_out`: gives, for a group and the shard's name, what stands in for a record that settings leave out.
    """

    def work(shard: str) -> Iterator[Record | Missing]:
        for joined in join_shard(layers, shard, how="inner"):
            if isinstance(joined, Missing):
                yield joined
                continue
            if leave_out is not None and (missing := leave_out(joined, shard)) is not None:
                yield missing
                continue
            try:
                yield make(joined)
            except BadSampleError as error:
                yield Missing(key=joined["samples"].key, reason=str(error))

    return work


def _first(names: list[str], limit: int | None) -> list[str]:
    return names if limit is None else names[:limit]


@settings
class Reduce(Stage):
    """A stage that turns every shard into `Counts`, which the driver adds up."""

    @abstractmethod
    def shards(self, instance: Instance) -> list[str]:
        """The shards to count."""

    @abstractmethod
    def counter(self, instance: Instance) -> ShardCounter:
        """Load what the work needs (once per actor) and return the function from a shard's name to its counts."""

    @abstractmethod
    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        """What the summed counts say; files go into `instance.path`."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A stage as it stands in a recipe: its name, its inputs, its fingerprint and the folder of what it makes."""

    name: str
    stage: Stage
    seed: int
    inputs: Mapping[str, Instance]
    fingerprint: str
    path: Path

    @property
    def layer(self) -> Layer:
        """The layer that this instance writes. Only for `Map` stages."""
        assert isinstance(self.stage, Map), f"{self.name} writes no layer"
        return Layer(self.path, self.stage.record_kind, self.stage.tars())

    @cached_property
    def samples(self) -> Instance:
        """The build_shards instance that this one descends from."""
        if self.stage.kind == "build_shards":
            return self
        return next(iter(self.inputs.values())).samples

    @property
    def taxonomy(self) -> Taxonomy:
        """The class list of the data set."""
        stage: BuildShards = self.samples.stage  # type: ignore[assignment]
        return stage.taxonomy

    def run_record(self) -> RunRecord | None:
        """What the finished stage recorded, or None where it is not finished."""
        try:
            record = RunRecord(**json.loads((self.path / RUN_RECORD).read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return record if isinstance(record.artifacts, dict) else None

    def is_done(self) -> bool:
        """True where the stage finished and what it made is still there."""
        record = self.run_record()
        if record is None or not all(Path(path).exists() for path in record.artifacts.values()):
            return False
        return self.stage.is_intact(self)

    def write_run_record(self, record: RunRecord) -> None:
        """Mark the stage as finished."""
        data = json.dumps(record.__dict__, indent=1, sort_keys=True).encode()
        write_bytes(self.path / RUN_RECORD, data, what="the record of a finished stage")
