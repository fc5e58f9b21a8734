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
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from shards.files import write_bytes
from shards.layer import Layer, ShardError, split_of
from shards.records import Missing, Record, RunRecord, Sample
from shards.remote_tars import RemoteTars
from shards.taxonomy import Taxonomy
from wsss.contract.cost import ExpectedData, PlanContext, Work
from wsss.contract.counts import Counts
from wsss.contract.settings import settings
from wsss.contract.slots import Slot

RUN_RECORD = "run.json"
S = TypeVar("S")


def _distinct(splits: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(splits)) < len(splits):
        repeated = next(split for split in splits if splits.count(split) > 1)
        raise ValueError(f"splits must be unique, got {repeated!r} twice")
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
    notes: tuple[str, ...] = ()
    """Lines that are printed once, when the stage has finished."""


@settings
class Stage:
    """A named step with settings. `slots` says, for every input, what may fill it."""

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raised by hand whenever the same settings would give another result: it enters the fingerprint."""
    slots: ClassVar[Mapping[str, Slot]] = {}
    optional_slots: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "network"
    """What a training leaves, in words: classifier, segmenter, …"""

    def used_slots(self) -> tuple[str, ...]:
        """The slots that these settings read; the others stay empty."""
        return tuple(self.slots)

    def draws(self) -> bool:
        """True if the result depends on the recipe's seed with these settings: only then it enters the fingerprint."""
        return False

    def supervision(self) -> Literal["image", "semi", "full"]:
        """Labels that these settings train with: image-level labels, masks of some images, masks of all."""
        return "image"

    def reads_boxes(self) -> bool:
        """True where these settings train with boxes, annotated or made."""
        return False

    def reads_masks(self) -> bool:
        """True if these settings read the samples' masks, to measure or to train."""
        return False

    def signature(self, *, masks: bool = True) -> str:
        """What enters the fingerprint besides settings and inputs: a hash of data that lies outside the run.

        Without `masks`: of what is read where no mask is.
        """
        return ""

    def is_intact(self, instance: Instance) -> bool:
        """True where what the finished stage made is still whole, as far as a look at names and sizes tells."""
        return True

    def check(self, instance: Instance) -> None:
        """Raise ValueError where settings and inputs do not fit together, before anything runs."""

    def skip_reason(self, instance: Instance) -> str:
        """Why this instance has nothing to do, asked when all it reads is done; empty where it is to run."""
        return ""

    def cost(self, instance: Instance, context: PlanContext) -> Work | None:
        """What `wsss plan` counts for an instance; None where the stage does not state it."""
        return None

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

    def given_labels(self) -> bool:
        """True if a record is made with the labels of its image: such results are told apart from all others."""
        return True

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        """Optional fields of its records that these settings fill, such as `peak` or `saliency`."""
        return frozenset()

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

    def arrays_per_record(self) -> int:
        """Sets of maps, or label maps, that a record holds with these settings; `wsss plan` counts bytes by it."""
        return 1

    def prepare(self, instance: Instance) -> None:
        """Write down, once and before the first shard, what all workers must agree on. Called again on every resume."""

    def take(self, instance: Instance, shard: str) -> bool:
        """Take over a shard that was made elsewhere, in place of making it; False where there is none."""
        return False

    def outcome(self, instance: Instance) -> Outcome:
        """What the complete layer shows besides its numbers of records: further metrics, and lines to print."""
        return Outcome()

    @abstractmethod
    def worker(self, instance: Instance) -> ShardWorker:
        """Load what the work needs (once per actor) and return the function from a shard's name to its records."""


@settings
class DataStage(Map):
    """A stage that makes the samples, which all other layers stand beside."""

    record_kind: ClassVar[str] = Sample.kind

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The class list of the data set."""

    def why_no_masks(self, split: str) -> str:
        """The setting that keeps all images of a split without a mask, in words; empty where some may have one."""
        return ""

    def masks_only_measure(self) -> bool:
        """True if nothing but masks is made of the masks: then labels and boxes are the same without them."""
        return False

    def expected_data(self) -> ExpectedData:
        """What the settings tell of the images, for `wsss plan`."""
        return ExpectedData()

    def without_data(self) -> DataStage:
        """The same stage for a plan on a machine that does not have the data: it looks at no file."""
        return self


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
    fingerprint_without_masks: str = ""
    """Of samples: the fingerprint that they would have without masks that only measure. A stage that reads no mask has
    this one in its own fingerprint, so that masks which are added later for `evaluate` train nothing again."""

    @property
    def layer(self) -> Layer:
        """The layer that this instance writes. Only for `Map` stages."""
        assert isinstance(self.stage, Map), f"{self.name} writes no layer"
        return Layer(self.path, self.stage.record_kind, self.stage.tars())

    @cached_property
    def samples(self) -> Instance:
        """The instance that made the samples which this one descends from."""
        if isinstance(self.stage, DataStage):
            return self
        return next(iter(self.inputs.values())).samples

    @property
    def data(self) -> DataStage:
        """The stage that made the samples."""
        stage = self.samples.stage
        assert isinstance(stage, DataStage)
        return stage

    @property
    def taxonomy(self) -> Taxonomy:
        """The class list of the data set."""
        return self.data.taxonomy

    def stage_in(self, slot: str, kind: type[S]) -> S:
        """The stage in a slot, as the class that the slot's declaration promises."""
        stage = self.inputs[slot].stage
        assert isinstance(stage, kind), f"{self.name}.inputs.{slot} is {stage.kind}, declared as {kind.__name__}"
        return stage

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
