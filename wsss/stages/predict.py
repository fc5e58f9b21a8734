"""predict: images and a trained segmenter -> segmentations at the original size; no label is needed.

Shape letters: `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch

from shards.records import Prediction, Record, Sample, grid_size
from wsss.device import worker_device
from wsss.ops.multi_scale import resize_bilinear
from wsss.settings import settings
from wsss.stages.fit import load_trained
from wsss.stages.segmenter_views import SegmenterViews
from wsss.stages.stage import Instance, Map, ShardWorker, Splits, work_per_record


@settings
class Predict(SegmenterViews, Map):
    """Segment images, with test-time augmentation by scales and mirror images."""

    kind: ClassVar[str] = "predict"
    record_kind: ClassVar[str] = "prediction"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("build_shards",), "segmenter": ("train_segmenter",)}

    splits: Splits = ("val",)
    """Splits to segment."""

    def worker(self, instance: Instance) -> ShardWorker:
        trained = instance.inputs["segmenter"]
        network = load_trained(trained, device=worker_device())

        def make(joined: Mapping[str, Record]) -> Prediction:
            return self._prediction(cast(Sample, joined["samples"]), network, trained.stage)

        return work_per_record({"samples": instance.inputs["samples"].layer}, make)

    @torch.inference_mode()
    def _prediction(self, sample: Sample, network: Any, trained: Any) -> Prediction:
        probability_CHW = self.probabilities(sample, network, trained, size=sample.size)
        confidence_HW, mask_HW = probability_CHW.max(0)
        confidence_hw = resize_bilinear(confidence_HW[None, None], size=grid_size(sample.size))[0, 0]
        return Prediction(
            key=sample.key,
            mask=mask_HW.to(torch.uint8).cpu().numpy(),
            confidence=(255 * confidence_hw).round().to(torch.uint8).cpu().numpy(),
        )
