"""The records that stages exchange: one frozen dataclass per kind of layer.

Shape letters: `H W` pixels, `h w` the stride-4 grid (h = ceil(H / 4)), `K` classes present in the image.
Class ids: 0 = background, 1..C = foreground. Label maps are u8, and 255 = undecided or ignored; in data sets of more
than 254 classes they are u16, and 65,535 is (`shards/label_type.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np

from shards.images import decode_image
from shards.label_type import BACKGROUND, BYTE, WIDE, ignore_of

IGNORE = BYTE.ignore
"""Of byte masks; `shards.label_type` knows that of every mask."""
GRID_STRIDE = 4
"""CAMs, scores and confidences live on a grid of this stride."""


def grid_size(size: tuple[int, int]) -> tuple[int, int]:
    """The stride-4 grid of an image: (ceil(H / 4), ceil(W / 4))."""
    return math.ceil(size[0] / GRID_STRIDE), math.ceil(size[1] / GRID_STRIDE)


class BadSampleError(ValueError):
    """One sample cannot be used; the message is the reason that the manifest records."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Replaces a record that could not be created: recorded and counted in the manifest, never silently dropped."""

    key: str
    reason: str
    left_out: bool = False
    """True if settings exclude it on purpose: reported and counted separately, not a fault."""


class Box(NamedTuple):
    """The box of one object in whole pixels of the decoded image: rows top..bottom-1, columns left..right-1."""

    class_id: int
    """Foreground class."""
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with what is known about it.

    `encoded` is the image file's own bytes (such as JPEG or PNG), so that building shards never re-encodes; `image`
    decodes them. `position` is the sample's index in its split's list (two-fold scoring splits by it).
    """

    kind: ClassVar[str] = "sample"
    key: str
    encoded: bytes
    size: tuple[int, int]
    """(H, W) in pixels, as decoded."""
    classes: tuple[int, ...]
    """Foreground classes known to be present, ascending."""
    unknown: tuple[int, ...] = ()
    """Foreground classes whose presence was never checked."""
    mask: np.ndarray | None = None
    """u8[H, W] or u16[H, W], class ids, or None."""
    boxes: tuple[Box, ...] | None = None
    """Boxes of the objects, or None if they are not known."""
    saliency: np.ndarray | None = None
    """u8[H, W], 255 = certainly an object of any class, or None."""
    position: int = 0
    source: str = ""
    """Where the sample came from, relative to the data root."""
    decoded: np.ndarray | None = field(default=None, repr=False, compare=False)
    """u8[H, W, 3], read-only: what `image` gives, if it was decoded ahead; never stored."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Counts made by the source when it read the sample (`objects`, `crowds`, `without_outline` of COCO). They are
    stored only in the shard's manifest entry: a decoded record has none."""

    @property
    def image(self) -> np.ndarray:
        """u8[H, W, 3], RGB. Raises `BadSampleError` if the bytes do not decode."""
        if self.decoded is not None:
            return self.decoded
        try:
            return decode_image(self.encoded)
        except ValueError as error:
            raise BadSampleError(str(error)) from error

    def with_image(self) -> Sample:
        """The same sample, whose image is decoded now; unchanged if it does not decode, so that `image` says why."""
        try:
            image = decode_image(self.encoded)
        except ValueError:
            return self
        image.flags.writeable = False
        return replace(self, decoded=image)


@dataclass(frozen=True, kw_only=True)
class CamRecord:
    """Class activation maps of the classes present, each in [0, 1], on the stride-4 grid."""

    kind: ClassVar[str] = "cam"
    key: str
    classes: np.ndarray
    """i16[K], foreground class ids (i32 if one is above 32,767)."""
    maps: np.ndarray
    """f16[K, h, w]."""
    peak: np.ndarray | None = None
    """f16[K, h, w]: pixel-wise maximum of stochastic maps, or None."""
    probabilities: np.ndarray | None = None
    """f16[K]: the classifier's probability of each class, from the mean of its logits over all views, or None."""
    unknown: tuple[int, ...] = ()
    """Foreground classes without a map that the image may show, ascending: it is not known where its background is."""
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SeedRecord:
    """Confident pixels: class ids, 255 (of u16: 65,535) = undecided."""

    kind: ClassVar[str] = "seed"
    key: str
    label: np.ndarray
    """u8[H, W] or u16[H, W]."""
    classes: np.ndarray | None = None
    """i16[K], foreground class ids, or None without `scores`."""
    scores: np.ndarray | None = None
    """f16[2, K + 1, H, W], or None: the scores that decided the label, with much background and with little, the
    background's plane first. Labels of a coarser grid are decided after the scores are averaged over its cells."""


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """Class scores after propagation, before any threshold or CRF, on the stride-4 grid.

    Cell i of the grid covers the pixels 4 i to 4 i + 3: scores are magnified four times and cropped to the image. They
    are in [0, 1] at the pixels; on the grid they may slightly exceed 1.
    """

    kind: ClassVar[str] = "score"
    key: str
    classes: np.ndarray
    """i16[K], foreground class ids."""
    scores: np.ndarray
    """f16[K, h, w]."""
    background: np.ndarray | None = None
    """f16[h, w]: the background's score on the scale of the class scores, if it was propagated with them; else None."""
    unknown: tuple[int, ...] = ()
    """As in `CamRecord`."""
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ConfidentLabel:
    """A label map with its confidence: the common part of pseudo labels and predictions, used to train segmenters."""

    key: str
    mask: np.ndarray
    """u8[H, W] or u16[H, W]."""
    confidence: np.ndarray
    """u8[h, w]: 255 x the probability of the chosen class; or 255 x (1 - the variance of the label), on a scale from 0
    to 1, with `make_pseudo_labels.response_scales`."""

    def confident_mask(self, threshold: float) -> np.ndarray:
        """The mask, ignored in pixels with a probability below `threshold` (in [0, 1], on the stride-4 grid)."""
        if threshold <= 0:
            return self.mask
        return np.where(self.pixel_confidence < 255 * threshold, self.mask.dtype.type(ignore_of(self.mask)), self.mask)

    @property
    def pixel_confidence(self) -> np.ndarray:
        """u8[H, W]: the confidence of each pixel's cell in the stride-4 grid."""
        height, width = self.mask.shape
        fine = self.confidence.repeat(GRID_STRIDE, axis=0).repeat(GRID_STRIDE, axis=1)
        return fine[:height, :width]


@dataclass(frozen=True, kw_only=True)
class PseudoLabel(ConfidentLabel):
    """A label map made from image-level labels."""

    kind: ClassVar[str] = "pseudo_label"
    disputed: int | None = None
    """Number of pixels that are 255 because the label maps that this one was made from differ; None if it was not made
    from several. Not stored with the record, only in its manifest entry."""
    agreement: float | None = None
    """How far the label maps that this one was made from agree, in [0, 1] (`wsss.ops.image_agreement`); None if it was
    not measured. Not stored with the record either."""


@dataclass(frozen=True, kw_only=True)
class Prediction(ConfidentLabel):
    """A segmentation made by a trained segmenter."""

    kind: ClassVar[str] = "prediction"
    ablation: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Name of a subset of the views -> u8[H, W] or u16[H, W], the prediction from that subset alone."""


@dataclass(frozen=True, kw_only=True)
class InstanceLabel:
    """An instance segmentation made from image-level labels: a map of instances, each with a class."""

    kind: ClassVar[str] = "instance_label"
    key: str
    instances: np.ndarray
    """u16[H, W]: 0 = none, i = the i-th instance."""
    classes: np.ndarray
    """i16[I], foreground class id of every instance."""
    scores: np.ndarray
    """f16[I], in [0, 1]."""

    @property
    def mask(self) -> np.ndarray:
        """u8[H, W], or u16 if a class is above 254: the class of each pixel's instance, 0 if it has none."""
        held = BYTE if self.classes.max(initial=0) < BYTE.ignore else WIDE
        return np.concatenate([[BACKGROUND], self.classes]).astype(held.dtype)[self.instances]


def label_map_of(record: object) -> np.ndarray | None:
    """The label map that a record stores: its mask or its seeds; None if it has none."""
    if isinstance(record, SeedRecord):
        return record.label
    return record.mask if isinstance(record, Sample | ConfidentLabel) else None


Record = Sample | CamRecord | SeedRecord | ScoreRecord | PseudoLabel | Prediction | InstanceLabel
RECORD_KINDS: dict[str, type] = {
    cls.kind: cls for cls in (Sample, CamRecord, SeedRecord, ScoreRecord, PseudoLabel, Prediction, InstanceLabel)
}


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The record of one run of a stage instance: sent to experiment tracking and read by the leaderboard."""

    recipe: str
    instance: str
    kind: str
    fingerprint: str
    settings: dict[str, object]
    """Dotted name -> value, every setting of the instance."""
    upstream: dict[str, str]
    """Upstream instance -> fingerprint."""
    git_commit: str
    """Commit of the code (with `-dirty` if it was changed), `version X` of an installed package, or `unknown`."""
    metrics: dict[str, float]
    tables: dict[str, list[dict[str, object]]] = field(default_factory=dict)
    """Name -> rows, for results that are too large for metrics (per-class IoU)."""
    artifacts: dict[str, str] = field(default_factory=dict)
    """Name -> path of a file made by the stage."""
    seconds: float = 0.0
    finished: float = 0.0
    """Unix time in seconds."""
    supervision: str = ""
    """Supervision of this instance and its upstream: image, semi or full, and `+ boxes`; empty in old records."""
    work: dict[str, float] = field(default_factory=dict)
    """Measurements for `wsss plan --measured`: number of images, total seconds of all workers and of the driver after
    them, number of workers, threads and GPUs per worker; names with `later_` exclude the first shard of every worker.
    Of workers with a GPU also `read_wait_seconds` and `write_wait_seconds`, which the network waited for records and
    for their writing, `idle_share` of the time, and `queue_length`, records decoded ahead on average; `fewer.SETTING`:
    images processed together instead of SETTING, for lack of memory.
    Empty in old records."""
    restarts: int = 0
    """Workers (actors or training ranks) that died or were stuck and were replaced during the run."""
    losses: dict[str, float] = field(default_factory=dict)
    """Counts of what was lost and done again: `actors`, `ranks`, `nodes`, `preemptions`, `shards_redone`,
    `steps_redone`, `records_set_aside`; a name that is absent counts 0."""
    lost: list[str] = field(default_factory=list)
    """A line for each lost worker: which, on which host, at what, why, and what was done again."""
    data: list[dict[str, str]] = field(default_factory=list)
    """The layers it read: `name`, `digest` (a fingerprint), `source` (a folder) and `context`: `training`,
    `evaluation`, or `inference` where records are made of them. Empty in old records."""
    model: str = ""
    """Fingerprint of the training whose network made what is measured here; empty if there is none."""
    weights: dict[str, str] = field(default_factory=dict)
    """Name -> path of the weights that a training kept: `last` or `best`, and the other one if it validated."""
    trains: str = ""
    """What a training produces: classifier, segmenter, …; empty for other stages."""

    def loss_metrics(self) -> dict[str, float]:
        """The counts of losses as metrics: `restarts`, and `losses.NAME`."""
        return {"restarts": float(self.restarts)} | {f"losses.{name}": count for name, count in self.losses.items()}
