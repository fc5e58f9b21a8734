"""make_seeds: activation maps -> confident pixels, 255 for the rest.

Shape letters: `K` classes present, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from shards.layer import Layer
from shards.reader import read_shard
from shards.records import IGNORE, CamRecord, Missing, Record, Sample, SeedRecord
from wsss.crf_settings import CrfSettings
from wsss.device import worker_device
from wsss.ops.dense_crf import unary_from_probabilities
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.seeds import exponent_scores, exponent_seeds, two_threshold_seeds
from wsss.ops.stochastic_cam import fickle_label
from wsss.settings import read_with, settings
from wsss.stages.confident_images import ConfidentImages
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record

_NUM_BINS = 10
_BY_THRESHOLDS = read_with("rule", "two_thresholds", "ficklenet")


@settings
class MakeSeeds(CrfSettings, ConfidentImages, Map):
    """Confident foreground, confident background, and nothing in between."""

    kind: ClassVar[str] = "make_seeds"
    revision: ClassVar[int] = 2
    record_kind: ClassVar[str] = "seed"
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {
        "samples": ("build_shards",),
        "cams": ("make_cams", "make_segmenter_maps"),
    }

    rule: Literal["two_thresholds", "exponents", "ficklenet"] = "two_thresholds"
    """`two_thresholds`: irn's; `exponents`: AffinityNet's; `ficklenet`: where any stochastic map is foreground."""
    foreground_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS] = 0.30
    """A pixel whose map is above this is confident foreground."""
    background_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS] = 0.05
    """A pixel whose maps are all at most this is confident background."""
    foreground_exponent: Annotated[float, Field(gt=0), read_with("rule", "exponents")] = 4.0
    """exponents: what wins against a background of (1 - map) to this power is confident foreground."""
    background_exponent: Annotated[float, Field(gt=0), read_with("rule", "exponents")] = 32.0
    """exponents: what loses against a background of (1 - map) to this power is confident background."""
    refine: Annotated[Literal["crf", "none"], read_with("rule", "two_thresholds", "exponents")] = "crf"
    """Refine both label maps, or both maps of scores, by the dense CRF before they are compared."""

    def check(self, instance: Instance) -> None:
        self.check_probabilities(instance)
        if self.rule == "exponents" and self.foreground_exponent >= self.background_exponent:
            raise ValueError(
                f"{instance.name}.foreground_exponent = {self.foreground_exponent} must be below "
                f"{instance.name}.background_exponent = {self.background_exponent}; "
                "what lies between them stays undecided"
            )
        if self.rule != "exponents" and self.foreground_threshold <= self.background_threshold:
            raise ValueError(
                f"{instance.name}.foreground_threshold = {self.foreground_threshold} must be above "
                f"{instance.name}.background_threshold = {self.background_threshold}; "
                "the band between them stays undecided"
            )
        method = getattr(instance.inputs["cams"].stage, "method", "cam")
        if self.rule == "ficklenet" and method != "stochastic":
            raise ValueError(
                f"{instance.name}.rule = 'ficklenet' needs the maximum of stochastic maps; "
                f"{instance.inputs['cams'].name}.method is {method!r}"
            )

    def worker(self, instance: Instance) -> ShardWorker:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}

        def make(joined: Mapping[str, Record]) -> SeedRecord:
            sample, cams = cast(Sample, joined["samples"]), cast(CamRecord, joined["cams"])
            return SeedRecord(key=sample.key, label=self._label(sample, cams))

        work = work_per_record(layers, make, leave_out=self.left_out)
        return lambda shard: self._with_pairs(work(shard), shard, instance)

    def _with_pairs(
        self, records: Iterator[Record | Missing], shard: str, instance: Instance
    ) -> Iterator[Record | Missing]:
        """Pass the records on, and refuse a shard of which none has two confident pixels: nothing learns from it."""
        num_images = num_with_pairs = 0
        for record in records:
            if isinstance(record, SeedRecord):
                num_images += 1
                num_with_pairs += int(np.count_nonzero(record.label != IGNORE) > 1)
            yield record
        if num_images and not num_with_pairs:
            raise ValueError(
                f"{shard}: {self._rule_in_words(instance.name)} leave no pair of confident pixels in any of its "
                f"{num_images} images. Their pixels by largest CAM score: "
                f"{_histogram(instance.inputs['cams'].layer, shard)}"
            )

    def _rule_in_words(self, name: str) -> str:
        names = ("foreground_exponent", "background_exponent")
        if self.rule != "exponents":
            names = ("foreground_threshold", "background_threshold")
        return " and ".join(f"{name}.{setting} = {getattr(self, setting)}" for setting in names)

    @torch.inference_mode()
    def _label(self, sample: Sample, cams: CamRecord) -> np.ndarray:
        """u8[H, W] of one image."""
        device, classes = worker_device(), cams.classes.tolist()
        if self.rule == "ficklenet" and classes:
            return self._fickle_label(sample, cams, device)
        maps_KHW = upsample(cams.maps, sample.size, device=device)
        if self.rule == "exponents":
            return self._exponent_label(maps_KHW, sample, classes)
        refine = None
        if self.refine == "crf" and classes:
            refine = self.label_refinement(sample.image, num_labels=len(classes) + 1, device=device)
        seeds = two_threshold_seeds(
            maps_KHW,
            classes=classes,
            foreground_threshold=self.foreground_threshold,
            background_threshold=self.background_threshold,
            refine=refine,
        )
        return seeds.cpu().numpy()

    def _exponent_label(self, maps_KHW: torch.Tensor, sample: Sample, classes: list[int]) -> np.ndarray:
        scores = [exponent_scores(maps_KHW, exponent=e) for e in (self.foreground_exponent, self.background_exponent)]
        if self.refine == "crf" and classes:
            scores = [self.refine_energy(unary_from_probabilities(score), sample.image) for score in scores]
        return exponent_seeds(scores[0], little_LHW=scores[1], classes=classes).cpu().numpy()

    def _fickle_label(self, sample: Sample, cams: CamRecord, device: torch.device) -> np.ndarray:
        """Decided on the grid that the maximum was taken on, where it is exact; pixels take the nearest label."""
        assert cams.peak is not None
        mean_Khw, peak_Khw = (torch.from_numpy(maps).to(device).float() for maps in (cams.maps, cams.peak))
        classes, theta = cams.classes.tolist(), self.foreground_threshold
        label_hw = fickle_label(mean_Khw, peak_Khw, classes=classes, theta=theta)
        label_hw[(peak_Khw.amax(0) < self.background_threshold) & (label_hw == IGNORE)] = 0
        label_HW = functional.interpolate(label_hw[None, None].float(), size=sample.size, mode="nearest")[0, 0]
        return label_HW.to(torch.uint8).cpu().numpy()


def _histogram(cams: Layer, shard: str) -> str:
    """Shares of the grid's pixels of a shard, by the largest score among their classes."""
    counts = np.zeros(_NUM_BINS, dtype=np.int64)
    for record in read_shard(cams, shard):
        if isinstance(record, CamRecord) and len(record.classes):
            counts += np.histogram(record.maps.max(0), bins=_NUM_BINS, range=(0, 1))[0]
    shares = 100 * counts / max(counts.sum(), 1)
    return ", ".join(
        f"{i / _NUM_BINS:.1f} to {(i + 1) / _NUM_BINS:.1f}: {share:.0f} %" for i, share in enumerate(shares)
    )


def upsample(maps_Khw: np.ndarray, size: tuple[int, int], *, device: torch.device) -> torch.Tensor:
    """f16[K, h, w] of the stride-4 grid to f32[K, H, W]."""
    if len(maps_Khw) == 0:
        return torch.zeros((0, *size), device=device)
    maps = torch.from_numpy(maps_Khw).to(device).float()
    return resize_bilinear(maps[None], size=size)[0]
