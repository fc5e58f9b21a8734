"""predict: from images and a trained segmenter, segmentations at the original size; labels are not needed.

If labels are known and may be used, for example for images that a second segmenter trains on, `labels = "given"`
excludes classes from an image's segmentation that the image does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, ClassVar, cast

from shards.layer import split_of
from shards.records import Prediction, Record, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.settings import active_with, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker, Splits
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.prediction_settings import PredictionSettings
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import LabelReading, Unchecked


@settings
class Predict(PredictionSettings, LabelReading, Map):
    """Segment images, with test-time augmentation by scales and mirror images."""

    kind: ClassVar[str] = "predict"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = Prediction.kind
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "segmenter": Trained(ImageSegmenterTraining),
    }

    splits: Splits = ("val",)
    """Splits to segment."""
    unchecked: Annotated[Unchecked, active_with("labels", "given")] = "unknown"
    """labels = "given": as `make_cams.unchecked`. Unknown classes may be predicted."""

    def given_labels(self) -> bool:
        return self.labels != "none"

    def cautions(self, instance: Instance) -> list[str]:
        views = Views(scales=self.scales, long_side=self.long_side, max_side=self.max_side, setting="scales")
        return outside_notes(instance, instance.inputs["segmenter"], views, splits=self.splits)

    def arrays_per_record(self) -> int:
        return 1 + len(self.ablation)

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Views through the segmenter, merged at the image's size; then the dense CRF, if it is on."""
        from wsss.stages.segmenter.cost import views_load

        stats, num_classes = context.stats, len(instance.taxonomy) + 1
        load = views_load(self, context, num_classes=num_classes, merged=stats.megapixels, longest=self.max_side)
        if self.refine == "crf":
            load += Load(arrays=self.planned_units(stats.megapixels, labels=stats.labels + 1))
        return context.map_work(Load(core={"decode_image": stats.megapixels}) + load, has_network=True)

    def worker(self, instance: Instance) -> ShardWorker:
        from wsss.models.inference import for_inference
        from wsss.stages.segmenter.predictor import Predictor

        network = for_inference(load_trained(instance.inputs["segmenter"], device=worker_device()))
        predictor = Predictor(self, network, instance.stage_in("segmenter", ImageSegmenterTraining))

        def make(shard: str, joined: Mapping[str, Record]) -> Prediction:
            return predictor.prediction(self.as_read(cast(Sample, joined["samples"]), split_of(shard)))

        layers = {"samples": instance.inputs["samples"].layer}
        return lambda shard: work_per_record(layers, partial(make, shard))(shard)
