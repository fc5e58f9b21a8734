"""The interface of a stage, and of an instance: a stage as part of a recipe.

A stage is a frozen dataclass: its fields are its settings, its class attributes declare its inputs, and its methods do
the work. There are three kinds; the runtime has one method for each:

| kind | provides | method of the runtime |
|---|---|---|
| `Fit` | a training task and its data | `fit` |
| `Map` | a worker: from one shard, the records of one shard | `map` |
| `Reduce` | a counter: from one shard, integer counts; and a function of their sum | `reduce` |

Stages never use Ray, DeepSpeed, MLflow or ranks.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from shards.files import write_bytes
from shards.folds import Fold
from shards.label_type import LabelType, label_type
from shards.layer import Layer, ShardError, split_of
from shards.records import Missing, Record, RunRecord, Sample
from shards.remote_tars import RemoteTars
from shards.taxonomy import Taxonomy
from wsss.contract.cost import DatasetStats, ExpectedData, PlanContext, Work
from wsss.contract.counts import Counts
from wsss.contract.kept_files import found_files, relative_files
from wsss.contract.settings import distinct, settings
from wsss.contract.slots import Slot

RUN_RECORD = "run.json"
S = TypeVar("S")


SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
Splits = Annotated[tuple[SplitName, ...], Field(min_length=1), AfterValidator(distinct)]
"""A setting: names of splits. They become names of files."""
ShardWorker = Callable[[str], Iterator[Record | Missing]]
ShardCounter = Callable[[str], Counts]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of a stage, apart from the records or weights it wrote."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Lines that are printed once, when the stage has finished."""


@settings
class Stage:
    """A named step with settings. `slots` defines its inputs and what may fill each of them."""

    kind: ClassVar[str]
    revision: ClassVar[int] = 1
    """Increased by hand when a code change makes the same settings give another result; see `revision_with`."""
    slots: ClassVar[Mapping[str, Slot]] = {}
    optional_slots: ClassVar[frozenset[str]] = frozenset()
    trains: ClassVar[str] = "network"
    """What a training produces, in words: classifier, segmenter, …"""

    def own_revision(self) -> int:
        """`revision`, or a later one if a code change altered the results of these settings only."""
        return self.revision

    def revision_with(self, inputs: Mapping[str, Instance]) -> int:
        """The revision in the fingerprint: `own_revision`, or a later one if only results from such inputs changed."""
        return self.own_revision()

    def used_slots(self) -> tuple[str, ...]:
        """The slots that these settings use; the others stay empty."""
        return tuple(self.slots)

    def draws(self) -> bool:
        """True if the result depends on the recipe's seed with these settings; only then the fingerprint has it."""
        return False

    def supervision(self) -> Literal["image", "semi", "full"]:
        """Labels that these settings train with: image-level labels, masks of some images, or masks of all images."""
        return "image"

    def reads_boxes(self) -> bool:
        """True if these settings train with boxes, annotated or generated."""
        return False

    def reads_masks(self) -> bool:
        """True if these settings read the samples' masks, for evaluation or training."""
        return False

    def signature(self, *, masks: bool = True) -> str:
        """What enters the fingerprint besides settings and inputs: a hash of data stored outside the run; without
        `masks`, of the data other than masks."""
        return ""

    def is_intact(self, instance: Instance) -> bool:
        """True if the output of the finished stage is still complete, judging by file names and sizes only."""
        return True

    def check(self, instance: Instance) -> None:
        """Raise ValueError if settings and inputs do not fit together, before anything runs."""

    def skip_reason(self, instance: Instance) -> str:
        """Why this instance has nothing to do, empty if it has to run; called when all its inputs are done."""
        return ""

    def cost(self, instance: Instance, context: PlanContext) -> Work | None:
        """The work that `wsss plan` counts for an instance; None if the stage does not define it."""
        return None

    def preview(self, instance: Instance) -> list[str]:
        """Lines that `wsss show` prints about this stage before it runs: what existing data allow to predict."""
        return []

    def cautions(self, instance: Instance) -> list[str]:
        """Lines about settings that are allowed, but whose result is doubtful: what, why and what would be better.

        They are printed before the stage starts, by `wsss show`, and below the results. Inputs need not be done.
        """
        return []

    def check_environment(self, instance: Instance) -> None:
        """Raise ValueError if this machine's libraries cannot do what the settings ask.

        Called before anything runs, and only for stages that will run. Unlike `check`, it may import slow libraries.
        """


@settings
class Map(Stage):
    """A stage that makes one record (or a `Missing`) for every record it is given, shard by shard."""

    record_kind: ClassVar[str]
    aligned_with: ClassVar[str] = "samples"
    """The slot whose shard names and boundaries this stage's shards share; `samples` if that slot is not filled."""
    uses_torch: ClassVar[bool] = True
    """False if the worker computes without torch; then torch is not set up in it."""

    splits: Splits = ("train", "val")
    """Splits to process."""
    max_shards: Annotated[int, Field(ge=1)] | None = None
    """Process at most this many shards of each split, starting with the first; all of them if not given."""

    def given_labels(self) -> bool:
        """True if a record is made with the labels of its image: such results are reported separately from others."""
        return True

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        """Optional fields of its records that these settings fill, such as `peak` or `saliency`."""
        return frozenset()

    def shards(self, instance: Instance) -> list[str]:
        """The names of the shards this stage writes, in order."""
        aligned_with = self.aligned_with if self.aligned_with in instance.inputs else "samples"
        upstream = instance.inputs[aligned_with].layer.shards()
        chosen = [_first([s for s in upstream if split_of(s) == split], self.max_shards) for split in self.splits]
        if empty := [split for split, names in zip(self.splits, chosen, strict=True) if not names]:
            have = sorted({split_of(shard) for shard in upstream})
            raise ValueError(
                f"{instance.name}.splits names {empty[0]!r}, but {aligned_with} has only {', '.join(have)}"
            )
        return [name for names in chosen for name in names]

    def is_intact(self, instance: Instance) -> bool:
        try:
            return instance.layer.is_complete(self.shards(instance))
        except ShardError:  # its input layer is not complete any more
            return False

    def tars(self) -> RemoteTars | None:
        """Where the tars of this stage's layer are stored, if not in its own folder."""
        return None

    def arrays_per_record(self) -> int:
        """Number of label maps or sets of maps in a record with these settings, for the byte counts of `wsss plan`."""
        return 1

    def planned_stats(self, instance: Instance, stats: DatasetStats) -> DatasetStats:
        """What `wsss plan` expects of the images that have a record here: those of its inputs (`stats`), unless these
        settings leave out a known number."""
        return stats

    def prepare(self, instance: Instance) -> None:
        """Write, once before the first shard, the data that all workers must agree on. Called again on every resume."""

    def take(self, instance: Instance, shard: str) -> bool:
        """Reuse a shard that was made elsewhere instead of making it; False if there is none."""
        return False

    def outcome(self, instance: Instance) -> Outcome:
        """Results from the complete layer besides its record counts: further metrics, and lines to print."""
        return Outcome()

    @abstractmethod
    def worker(self, instance: Instance) -> ShardWorker:
        """Load the networks and data (once per actor); return the function from a shard's name to its records."""


class ClassesNotKnownError(ValueError):
    """The classes of a data set are needed, and are only in its files."""


@settings
class DataStage(Map):
    """A stage that makes the samples, to which the shards of all other layers correspond."""

    record_kind: ClassVar[str] = Sample.kind

    @property
    @abstractmethod
    def taxonomy(self) -> Taxonomy:
        """The class list of the data set."""

    def why_no_masks(self, split: str) -> str:
        """The setting because of which no image of a split has a mask, in words; empty if some may have one."""
        return ""

    def masks_only_measure(self) -> bool:
        """True if labels and boxes are not derived from the masks, so that they are the same without masks."""
        return False

    def bytes_to_write(self, instance: Instance) -> float:
        """An estimate of the bytes of the shards that are not written yet."""
        return 0.0

    def expected_data(self) -> ExpectedData:
        """What the settings say about the images, for `wsss plan`."""
        return ExpectedData()

    def forget_lists(self) -> None:
        """Drop cached lists of images. Called before a later stage, which needs none, is sent to workers."""

    def without_data(self) -> DataStage:
        """The same stage for `wsss plan` on a machine that does not have the data: it reads no files."""
        return self


def _first(names: list[str], limit: int | None) -> list[str]:
    return names if limit is None else names[:limit]


@settings
class Reduce(Stage):
    """A stage that turns every shard into `Counts`, which the driver sums."""

    @abstractmethod
    def shards(self, instance: Instance) -> list[str]:
        """The names of the shards to count."""

    @abstractmethod
    def counter(self, instance: Instance) -> ShardCounter:
        """Load the networks and data (once per actor); return the function from a shard's name to its counts."""

    @abstractmethod
    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        """Results from the summed counts; files are written to `instance.path`."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A stage of a recipe: its name, its inputs, its fingerprint and its output folder."""

    name: str
    stage: Stage
    seed: int
    inputs: Mapping[str, Instance]
    fingerprint: str
    path: Path
    fingerprint_without_masks: str = ""
    """For samples: the fingerprint they would have without masks that are only used for evaluation. The fingerprints of
    stages that read no masks include this one, so that masks added later for `evaluate` do not cause retraining."""
    without: Fold | None = None
    """Set where a training of cross-fitting reads this instance: its layer is seen without this fold."""

    @property
    def layer(self) -> Layer:
        """The layer that this instance writes. Only for `Map` stages."""
        assert isinstance(self.stage, Map), f"{self.name} writes no layer"
        return Layer(self.path, self.stage.record_kind, self.stage.tars(), self.without)

    @cached_property
    def samples(self) -> Instance:
        """The instance that made the samples from which this one is derived."""
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

    @property
    def label_type(self) -> LabelType:
        """The type of the data set's label maps; from the index of the samples if it lists the classes, so that workers
        need not open the data set."""
        names = self.samples.layer.classes()
        return label_type(len(self.taxonomy if names is None else names))

    def stage_in(self, slot: str, kind: type[S]) -> S:
        """The stage that fills a slot, typed as the class that the slot declares."""
        stage = self.inputs[slot].stage
        assert isinstance(stage, kind), f"{self.name}.inputs.{slot} is {stage.kind}, declared as {kind.__name__}"
        return stage

    def run_record(self) -> RunRecord | None:
        """The run record of the finished stage, or None if it is not finished."""
        try:
            record = RunRecord(**json.loads((self.path / RUN_RECORD).read_bytes()))
            return replace(record, artifacts=found_files(record.artifacts, folder=self.path))
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return None

    def is_done(self) -> bool:
        """True if the stage finished and its output still exists."""
        record = self.run_record()
        if record is None or not all(Path(path).exists() for path in record.artifacts.values()):
            return False
        return self.stage.is_intact(self)

    def write_run_record(self, record: RunRecord) -> None:
        """Mark the stage as finished."""
        written = record.__dict__ | {"artifacts": relative_files(record.artifacts, folder=self.path)}
        data = json.dumps(written, indent=1, sort_keys=True).encode()
        write_bytes(self.path / RUN_RECORD, data, what="the record of a finished stage")
