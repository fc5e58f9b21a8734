"""predict: from images and a trained segmenter, segmentations at the original size; labels are not needed.

With a classifier, its probabilities for the image weight the classes:

    log q_c(x) = log p_c(x) + prior_weight * log P_c for every class c but the background, up to a constant of the pixel

If labels are known and may be used, for example for images that a second segmenter trains on, `labels = "given"`
excludes classes from an image's segmentation that the image does not show.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

from pydantic import Field

from shards.layer import split_of
from shards.records import Prediction, Record, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.settings import active_unless, active_with, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker, Splits
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.segmenter.prediction_settings import PredictionSettings
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import LabelReading, Unchecked

if TYPE_CHECKING:
    from wsss.stages.segmenter.classifier_prior import ClassifierPrior


@settings
class Predict(PredictionSettings, LabelReading, Map):
    """Segment images, with test-time augmentation by scales and mirror images."""

    kind: ClassVar[str] = "predict"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = Prediction.kind
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "segmenter": Trained(ImageSegmenterTraining),
        "classifier": Trained(ClassifierTraining),
    }

    splits: Splits = ("val",)
    """Splits to segment."""
    unchecked: Annotated[Unchecked, active_with("labels", "given")] = "unknown"
    """labels = "given": as `make_cams.unchecked`. Unknown classes may be predicted."""

    prior_weight: Annotated[float, Field(ge=0), active_unless("prior_weight", 0.0)] = 0.0
    """The segmenter's probability of every class but the background is multiplied by the probability that the
    classifier in slot `classifier` gives the class in the whole image, to this power; 0 reads no classifier. The
    classifier sees the same views as the segmenter, and the probability is the sigmoid of its mean logit."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "classifier" or self.prior_weight > 0)

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if not self.prior_weight:
            return
        classifier, trained = instance.inputs["classifier"], instance.stage_in("classifier", ClassifierTraining)
        if unlearned := set(range(1, len(instance.taxonomy) + 1)).difference(trained.learned(classifier)):
            raise ValueError(
                f"{instance.name}.prior_weight = {self.prior_weight} needs a probability of every class, but "
                f"{classifier.name} does not learn {instance.taxonomy.name_of(min(unlearned))!r} ({len(unlearned)} "
                f"such); name a classifier of all classes in {instance.name}.inputs.classifier, or remove both settings"
            )

    def given_labels(self) -> bool:
        return self.labels != "none"

    def cautions(self, instance: Instance) -> list[str]:
        views = Views(scales=self.scales, long_side=self.long_side, max_side=self.max_side, setting="scales")
        trained = [instance.inputs[slot] for slot in self.used_slots() if slot != "samples"]
        return [note for one in trained for note in outside_notes(instance, one, views, splits=self.splits)]

    def arrays_per_record(self) -> int:
        return 1 + len(self.ablation)

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Views through the segmenter, merged at the image's size; then the dense CRF, if it is on."""
        from wsss.stages.segmenter.cost import classifier_load, views_load

        stats, num_classes = context.stats, len(instance.taxonomy) + 1
        load = views_load(self, context, num_classes=num_classes, merged=stats.megapixels, longest=self.max_side)
        if self.prior_weight:
            load += classifier_load(self, context)
        if self.refine == "crf":
            load += Load(arrays=self.planned_units(stats.megapixels, labels=stats.labels + 1))
        return context.map_work(Load(core={"decode_image": stats.megapixels}) + load, has_network=True)

    def worker(self, instance: Instance) -> ShardWorker:
        from wsss.models.inference import for_inference
        from wsss.stages.segmenter.predictor import Predictor

        network = for_inference(load_trained(instance.inputs["segmenter"], device=worker_device()))
        trained = instance.stage_in("segmenter", ImageSegmenterTraining)
        predictor = Predictor(self, network, trained, prior=self.prior(instance))

        def make(shard: str, joined: Mapping[str, Record]) -> Prediction:
            return predictor.prediction(self.as_read(cast(Sample, joined["samples"]), split_of(shard)))

        layers = {"samples": instance.inputs["samples"].layer}
        return lambda shard: work_per_record(layers, partial(make, shard))(shard)

    def prior(self, instance: Instance) -> ClassifierPrior | None:
        """The weights of the classes that the classifier gives, with its network loaded; None without a classifier."""
        if not self.prior_weight:
            return None
        from wsss.models.inference import for_inference
        from wsss.stages.segmenter.classifier_prior import ClassifierPrior

        network = for_inference(load_trained(instance.inputs["classifier"], device=worker_device()))
        trained = instance.stage_in("classifier", ClassifierTraining)
        return ClassifierPrior(self, network, trained, weight=self.prior_weight)
