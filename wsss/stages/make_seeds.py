"""make_seeds: from activation maps, labels of confident pixels; all other pixels are ignored.

Shape letters: `K` classes present, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

import numpy as np
from pydantic import Field

from shards.label_type import BACKGROUND, BYTE, LabelType, ignore_of
from shards.layer import Layer
from shards.reader import read_shard
from shards.records import BadSampleError, CamRecord, Missing, Record, Sample, SeedRecord
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import on_device, worker_device
from wsss.contract.settings import active_unless, active_with, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.settings.confident_images import ConfidentImages
from wsss.stages.settings.crf import CrfSettings

if TYPE_CHECKING:
    import torch

_NUM_BINS = 10
_REFINED_AT_ONCE = 2
"""Label maps of one image that the dense CRF refines, unless background = "saliency"."""
_BY_THRESHOLDS = active_with("rule", "two_thresholds", "ficklenet")
_BY_MAPS = active_with("background", "maps")


@settings
class MakeSeeds(CrfSettings, ConfidentImages, Map):
    """Label confident foreground and confident background; pixels in between are ignored."""

    kind: ClassVar[str] = "make_seeds"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = SeedRecord.kind
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "cams": Records((CamRecord,)),
    }

    rule: Literal["two_thresholds", "exponents", "ficklenet"] = "two_thresholds"
    """How pixels are chosen: `two_thresholds`, as in irn; `exponents`, as in AffinityNet; `ficklenet`, foreground if
    any stochastic map of the pixel is foreground."""
    foreground_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS] = 0.30
    """A pixel whose score in a class's map is above this is confident foreground. DSRG uses 0.2, for maps divided by
    their own maximum (what make_cams does unless normalisation = "global"). With rule = "ficklenet" this is FickleNet's
    theta (published value: 0.35)."""
    background: Annotated[Literal["maps", "saliency"], active_unless("background", "maps")] = "maps"
    """Source of confident background: `maps`, the rule's; `saliency`, pixels that are not foreground seeds and have low
    saliency in the sample's saliency map (DSRG). In an image without a class, all pixels are background."""
    saliency_threshold: Annotated[float, Field(gt=0, lt=1), active_with("background", "saliency")] = 0.06
    """saliency: a pixel whose saliency, divided by 255, is below this is confident background."""
    background_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS, _BY_MAPS] = 0.05
    """A pixel whose score is at most this in the maps of all classes is confident background."""
    foreground_exponent: Annotated[float, Field(gt=0), active_with("rule", "exponents")] = 4.0
    """exponents: a class that scores higher than a background of (1 - largest map) to this power is confident
    foreground."""
    background_exponent: Annotated[float, Field(gt=0), active_with("rule", "exponents"), _BY_MAPS] = 32.0
    """exponents: a pixel where no class scores higher than a background of (1 - largest map) to this power is confident
    background."""
    keep_scores: Annotated[bool, active_with("rule", "exponents"), _BY_MAPS, active_unless("keep_scores", False)] = (
        False
    )
    """exponents: also store both score maps, refined if refine = "crf", for a train_affinity with grid_labels =
    "pooled_scores" (AffinityNet). They take 4 x (classes + 1) bytes per pixel before compression."""
    refine: Annotated[Literal["crf", "none"], active_with("rule", "two_thresholds", "exponents")] = "crf"
    """`crf` refines both label maps (rule "exponents": both score maps) with the dense CRF before they are compared;
    `none` does not."""

    @property
    def keeps_scores(self) -> bool:
        """True if records have the scores that decided their labels."""
        return self.keep_scores and self.rule == "exponents" and self.background == "maps"

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        return frozenset({"scores"} if self.keeps_scores else ())

    def check(self, instance: Instance) -> None:
        self.check_probabilities(instance)
        if self.background == "saliency":
            self._check_saliency(instance)
        elif self.rule == "exponents" and self.foreground_exponent >= self.background_exponent:
            raise ValueError(
                f"{instance.name}.foreground_exponent = {self.foreground_exponent} must be below "
                f"{instance.name}.background_exponent = {self.background_exponent}; "
                "pixels between them are ignored"
            )
        elif self.rule != "exponents" and self.foreground_threshold <= self.background_threshold:
            raise ValueError(
                f"{instance.name}.foreground_threshold = {self.foreground_threshold} must be above "
                f"{instance.name}.background_threshold = {self.background_threshold}; "
                "pixels between them are ignored"
            )
        cams = instance.inputs["cams"]
        if self.rule == "ficklenet" and "peak" not in instance.stage_in("cams", Map).optional_fields(cams):
            raise ValueError(
                f"{instance.name}.rule = 'ficklenet' needs the maximum of stochastic maps, which {cams.name} does not "
                f"store; set {cams.name}.method = 'stochastic', or set another {instance.name}.rule"
            )

    def _check_saliency(self, instance: Instance) -> None:
        """Refuse samples that cannot have saliency maps."""
        samples = instance.inputs["samples"]
        if "saliency" not in instance.stage_in("samples", Map).optional_fields(samples):
            raise ValueError(
                f"{instance.name}.background = 'saliency' reads the samples' saliency maps, and {samples.name} has "
                f"none; set {samples.name}.saliency to their folder, or set "
                f"{instance.name}.background = 'maps'"
            )

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Upsampling of the maps to pixels, thresholds, and the dense CRF over both label maps."""
        stats = context.stats
        load = Load(core={"seeds": stats.megapixels * stats.labels})
        if self.refine == "crf" and self.rule != "ficklenet":
            maps = 1 if self.background == "saliency" else _REFINED_AT_ONCE
            load += Load(core=self.planned_units(stats.megapixels, labels=stats.labels + 1, maps=maps))
            load += Load(core={"decode_image": stats.megapixels})
        return context.map_work(load * stats.labelled_share, has_network=False, notes=self.plan_notes())

    def worker(self, instance: Instance) -> ShardWorker:
        import torch

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}
        labels = instance.label_type

        undecided: set[str] = set()

        def make(joined: Mapping[str, Record]) -> SeedRecord:
            sample, cams = cast(Sample, joined["samples"]), cast(CamRecord, joined["cams"])
            with torch.inference_mode():
                label, scores_2LHW = self._label(sample, cams, labels)
            if cams.unknown:  # the scores too would say where the background is
                label[label == BACKGROUND] = labels.ignore
                scores_2LHW = None
                undecided.add(sample.key)
            classes = None if scores_2LHW is None else cams.classes
            return SeedRecord(key=sample.key, label=label, classes=classes, scores=scores_2LHW)

        work = work_per_record(layers, make, leave_out=self.left_out, reads_images=self.refine == "crf")
        return lambda shard: self._with_pairs(work(shard), shard, instance, undecided)

    def _with_pairs(
        self, records: Iterator[Record | Missing], shard: str, instance: Instance, undecided: Collection[str]
    ) -> Iterator[Record | Missing]:
        """Yield the records; refuse a shard if no image in it has two confident pixels to learn from. Images with
        unknown classes (`undecided`) may have none."""
        num_images = num_with_pairs = 0
        for record in records:
            if isinstance(record, SeedRecord) and record.key not in undecided:
                num_images += 1
                num_with_pairs += int(np.count_nonzero(record.label != ignore_of(record.label)) > 1)
            yield record
        if num_images and not num_with_pairs:
            raise ValueError(
                f"{shard}: {self._rule_in_words(instance.name)} leave no pair of confident pixels in any of its "
                f"{num_images} images; change these settings. Share of pixels by largest CAM score: "
                f"{_histogram(instance.inputs['cams'].layer, shard)}"
            )

    def _rule_in_words(self, name: str) -> str:
        kind = "exponent" if self.rule == "exponents" else "threshold"
        names = (f"foreground_{kind}", f"background_{kind}" if self.background == "maps" else "saliency_threshold")
        return " and ".join(f"{name}.{setting} = {getattr(self, setting)}" for setting in names)

    def _label(self, sample: Sample, cams: CamRecord, labels: LabelType = BYTE) -> tuple[np.ndarray, np.ndarray | None]:
        """The label [H, W] of one image, of that type, and its scores f16[2, L, H, W] if they are kept."""
        import torch

        from wsss.data.images import upsample
        from wsss.ops.seeds import add_salient_background

        device, classes = worker_device(), cams.classes.tolist()
        if self.background == "saliency" and sample.saliency is None:
            raise BadSampleError("it has no saliency map, which background = 'saliency' reads")
        if not classes:
            return np.zeros(sample.size, dtype=labels.dtype), None
        scores_2LHW = None
        if self.rule == "ficklenet":
            label_HW = self._ficklenet_label(sample, cams, device, labels.ignore)
        elif self.rule == "exponents":
            scores = self._exponent_scores(upsample(cams.maps, sample.size, device=device), sample)
            label_HW = self._exponent_label(scores, classes, labels.ignore)
            scores_2LHW = torch.stack(scores).half().cpu().numpy() if self.keeps_scores else None
        else:
            maps_KHW = upsample(cams.maps, sample.size, device=device)
            label_HW = self._threshold_label(maps_KHW, sample, classes, labels.ignore)
        if self.background == "saliency":
            saliency_HW = on_device(torch.from_numpy(np.array(sample.saliency)), device)
            label_HW = add_salient_background(
                label_HW,
                saliency_HW=saliency_HW,
                threshold=self.saliency_threshold,
                ignore_index=labels.ignore,
            )
        return label_HW.cpu().numpy().astype(labels.dtype, copy=False), scores_2LHW

    def _threshold_label(
        self, maps_KHW: torch.Tensor, sample: Sample, classes: list[int], ignore_index: int
    ) -> torch.Tensor:
        from wsss.ops.seeds import foreground_seeds, two_threshold_seeds

        refine = None
        if self.refine == "crf":
            refine = self.label_refinement(sample.image, num_labels=len(classes) + 1, device=maps_KHW.device)
        if self.background == "saliency":
            return foreground_seeds(
                maps_KHW,
                classes=classes,
                foreground_threshold=self.foreground_threshold,
                refine=refine,
                ignore_index=ignore_index,
            )
        return two_threshold_seeds(
            maps_KHW,
            classes=classes,
            foreground_threshold=self.foreground_threshold,
            background_threshold=self.background_threshold,
            refine=refine,
            ignore_index=ignore_index,
        )

    def _exponent_scores(self, maps_KHW: torch.Tensor, sample: Sample) -> list[torch.Tensor]:
        """f32[L, H, W] with much background, and if the maps decide the background also with little."""
        import torch

        from wsss.ops.dense_crf import unary_from_probabilities
        from wsss.ops.seeds import exponent_scores

        exponents = [self.foreground_exponent, self.background_exponent][: 2 if self.background == "maps" else 1]
        scores = [exponent_scores(maps_KHW, exponent=exponent) for exponent in exponents]
        if self.refine == "crf":
            scores = [*self.refine_energy(unary_from_probabilities(torch.stack(scores)), sample.image)]
        return scores

    def _exponent_label(self, scores: list[torch.Tensor], classes: list[int], ignore_index: int) -> torch.Tensor:
        from wsss.ops.seeds import exponent_foreground, exponent_seeds

        if self.background == "saliency":
            return exponent_foreground(scores[0], classes=classes, ignore_index=ignore_index)
        return exponent_seeds(scores[0], little_LHW=scores[1], classes=classes, ignore_index=ignore_index)

    def _ficklenet_label(
        self, sample: Sample, cams: CamRecord, device: torch.device, ignore_index: int
    ) -> torch.Tensor:
        """Labels are decided on the stride-4 grid, where the maximum is exact; each pixel takes the nearest label."""
        import torch
        from torch.nn import functional

        from wsss.ops.seeds import label_dtype
        from wsss.ops.stochastic_cam import ficklenet_label

        assert cams.peak is not None
        mean_Khw, peak_Khw = (on_device(torch.from_numpy(maps), device).float() for maps in (cams.maps, cams.peak))
        classes, theta = cams.classes.tolist(), self.foreground_threshold
        label_hw = ficklenet_label(mean_Khw, peak_Khw, classes=classes, theta=theta, ignore_index=ignore_index)
        if self.background == "maps":
            label_hw[(peak_Khw.amax(0) < self.background_threshold) & (label_hw == ignore_index)] = 0
        label_HW = functional.interpolate(label_hw[None, None].float(), size=sample.size, mode="nearest")[0, 0]
        return label_HW.to(label_dtype(ignore_index))


def _histogram(cams: Layer, shard: str) -> str:
    """Shares of the grid pixels of a shard, by their largest score over all classes."""
    counts = np.zeros(_NUM_BINS, dtype=np.int64)
    for record in read_shard(cams, shard):
        if isinstance(record, CamRecord) and len(record.classes):
            counts += np.histogram(record.maps.max(0), bins=_NUM_BINS, range=(0, 1))[0]
    shares = 100 * counts / max(counts.sum(), 1)
    return ", ".join(
        f"{i / _NUM_BINS:.1f} to {(i + 1) / _NUM_BINS:.1f}: {share:.0f} %" for i, share in enumerate(shares)
    )
