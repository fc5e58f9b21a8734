"""predict: images and a trained segmenter -> segmentations at the original size; no label is needed.

Shape letters: `B` batch, `C` classes with background, `H W` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field

from shards.records import Prediction, Record, Sample, grid_size
from wsss.device import worker_device
from wsss.images import long_side_size, resize_image, to_tensor
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.tta import predict_views
from wsss.settings import Scales, settings
from wsss.stages.fit import load_trained
from wsss.stages.stage import Instance, Map, ShardWorker, Splits, work_per_record


@settings
class Predict(Map):
    """Segment images, with test-time augmentation by scales and mirror images."""

    kind: ClassVar[str] = "predict"
    record_kind: ClassVar[str] = "prediction"
    slots: ClassVar[dict[str, tuple[str, ...]]] = {"samples": ("build_shards",), "segmenter": ("train_segmenter",)}

    splits: Splits = ("val",)
    """Splits to segment."""
    scales: Scales = (0.5, 1.0, 2.0)
    """Sizes of the image, as factors."""
    flip: bool = True
    """Also look at the mirrored image at every scale."""
    merge: Literal["mean_logits", "mean_probabilities"] = "mean_logits"
    """What is averaged over the views."""
    long_side: Annotated[int, Field(ge=0)] = 0
    """Images are brought to this longer side first, the one the network was trained for; 0 leaves them as they are."""

    def worker(self, instance: Instance) -> ShardWorker:
        trained = instance.inputs["segmenter"]
        network = load_trained(trained, device=worker_device())

        def make(joined: Mapping[str, Record]) -> Prediction:
            return self._prediction(cast(Sample, joined["samples"]), network, trained.stage)

        return work_per_record({"samples": instance.inputs["samples"].layer}, make)

    @torch.inference_mode()
    def _prediction(self, sample: Sample, network: Any, trained: Any) -> Prediction:
        device = next(network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std)[None].to(device)
        if self.long_side:
            image_13HW = resize_image(image_13HW, size=long_side_size(sample.size, long_side=self.long_side))
        merged_1CHW = predict_views(
            image_13HW,
            network=network,
            scales=self.scales,
            flips=(False, True) if self.flip else (False,),
            merge=self.merge,
            size=sample.size,
        )
        probability_CHW = merged_1CHW[0].softmax(0) if self.merge == "mean_logits" else merged_1CHW[0]
        confidence_HW, mask_HW = probability_CHW.max(0)
        confidence_hw = resize_bilinear(confidence_HW[None, None], size=grid_size(sample.size))[0, 0]
        return Prediction(
            key=sample.key,
            mask=mask_HW.to(torch.uint8).cpu().numpy(),
            confidence=(255 * confidence_hw).round().to(torch.uint8).cpu().numpy(),
        )
