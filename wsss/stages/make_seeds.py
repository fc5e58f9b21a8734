"""make_seeds: activation maps -> confident pixels, 255 for the rest.

Shape letters: `K` classes present, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional

from shards.records import IGNORE, CamRecord, Record, Sample, SeedRecord
from wsss.crf_settings import CrfSettings
from wsss.device import worker_device
from wsss.ops.dense_crf import unary_from_probabilities
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.seeds import exponent_scores, exponent_seeds, two_threshold_seeds
from wsss.ops.stochastic_cam import fickle_label
from wsss.settings import read_with, settings
from wsss.stages.confident_images import ConfidentImages
from wsss.stages.stage import Instance, Map, ShardWorker, work_per_record

_BY_THRESHOLDS = read_with("rule", "two_thresholds", "ficklenet")


@settings
class MakeSeeds(CrfSettings, ConfidentImages, Map):
    """Confident foreground, confident background, and nothing in between."""

    kind: ClassVar[str] = "make_seeds"
    revision: ClassVar[int] = 2
    record_kind: ClassVar[str] = "seed"
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("build_shards",), "cams": ("make_cams",)}

    rule: Literal["two_thresholds", "exponents", "ficklenet"] = "two_thresholds"
    """`two_thresholds`: irn's; `exponents`: AffinityNet's; `ficklenet`: where any stochastic map is foreground."""
    foreground_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS] = 0.30
    """A pixel whose map reaches this is confident foreground."""
    background_threshold: Annotated[float, Field(gt=0, lt=1), _BY_THRESHOLDS] = 0.05
    """A pixel whose maps all stay below this is confident background."""
    foreground_exponent: Annotated[float, Field(gt=0), read_with("rule", "exponents")] = 4.0
    """exponents: what wins against a background of (1 - map) to this power is confident foreground."""
    background_exponent: Annotated[float, Field(gt=0), read_with("rule", "exponents")] = 32.0
    """exponents: what loses against a background of (1 - map) to this power is confident background."""
    refine: Annotated[Literal["crf", "none"], read_with("rule", "two_thresholds", "exponents")] = "crf"
    """Refine both label maps, or both maps of scores, by the dense CRF before they are compared."""

    def check(self, instance: Instance) -> None:
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

        return work_per_record(layers, make, leave_out=self.left_out)

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


def upsample(maps_Khw: np.ndarray, size: tuple[int, int], *, device: torch.device) -> torch.Tensor:
    """f16[K, h, w] of the stride-4 grid to f32[K, H, W]."""
    if len(maps_Khw) == 0:
        return torch.zeros((0, *size), device=device)
    maps = torch.from_numpy(maps_Khw).to(device).float()
    return resize_bilinear(maps[None], size=size)[0]
