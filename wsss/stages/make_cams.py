"""make_cams: from images and a classifier, class activation maps of the classes present.

Shape letters: `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from shards.layer import split_of
from shards.records import CamRecord, Missing, Record, Sample
from wsss.contract.batch_parts import BatchParts
from wsss.contract.cost import DatasetStats, Load, PlanContext, ShardWork
from wsss.contract.device import worker_device
from wsss.contract.fit import load_trained
from wsss.contract.settings import active_unless, settings
from wsss.contract.shard_workers import work_per_group
from wsss.contract.slots import Computed, Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.classifier.cam_checks import check_maps, check_prototypes
from wsss.stages.classifier.cam_settings import (
    GRADIENT_METHODS,
    LAST_LAYER,
    PROTOTYPE_METHOD,
    STAGE_METHODS,
    CamSettings,
)
from wsss.stages.classifier.prototype_settings import PrototypeSettings
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.trained_sizes import Views, outside_notes
from wsss.stages.settings.unknown_classes import left_out_for_unknown, left_out_without_maps

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from wsss.models.classifier import Classifier
    from wsss.stages.classifier.cam_maker import CamMaker

_TRAIN = "train"
_CLASSIFIERS = ("classifier", "second_classifier")
_REVISION_OF_DRAWS = 5
"""Since this revision stochastic maps are drawn from a counter; other maps are those of revision 4."""


@settings
class MakeCams(CamSettings, Map):
    """Class activation maps, merged over several scales and flips, on the stride-4 grid."""

    kind: ClassVar[str] = "make_cams"
    revision: ClassVar[int] = 4
    record_kind: ClassVar[str] = CamRecord.kind
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "classifier": Trained(ClassifierTraining),
        "second_classifier": Trained(ClassifierTraining),
        "prototypes": Computed(PrototypeSettings),
    }

    second_classifier: bool = False
    """Take the maps of classes that the classifier does not learn from the classifier in slot `second_classifier`."""

    train_images: Annotated[Literal["all", "classifier"], active_unless("train_images", "all")] = "all"
    """Images of the split train that get maps, and so are used by later stages: `all`, or those that the classifier in
    slot `classifier` was trained on (its images_per_class and hold_out; NoPeopleAllowed). The others are left out and
    counted."""

    def used_slots(self) -> tuple[str, ...]:
        needed = {"second_classifier": self.second_classifier, "prototypes": self.method == PROTOTYPE_METHOD}
        return tuple(slot for slot in self.slots if needed.get(slot, True))

    def _classifier_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.used_slots() if slot in _CLASSIFIERS)

    def draws(self) -> bool:
        return self.method == "stochastic"

    def own_revision(self) -> int:
        return self.revision if self.method != "stochastic" else max(self.revision, _REVISION_OF_DRAWS)

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        return frozenset({"probabilities", "peak"} if self.method == "stochastic" else {"probabilities"})

    def check(self, instance: Instance) -> None:
        for slot in self._classifier_slots():
            self._check_head(instance, slot)
        if self.method == PROTOTYPE_METHOD:
            check_prototypes(self, instance)
        if self.second_classifier:
            self._check_second_classifier(instance)
        check_maps(self, name=instance.name)
        if self.train_images == "classifier" and instance.stage_in("classifier", ClassifierTraining).folds > 1:
            raise ValueError(
                f"{instance.name}.train_images = 'classifier' leaves no image with cross-fitting: a network makes maps "
                "of the images that it was not trained on; set train_images = 'all', or remove the classifier's folds"
            )
        if self.normalisation == "global" and self.second_classifier:
            raise ValueError(
                f"{instance.name}.normalisation = 'global' cannot be used with second_classifier = true: maps of two "
                f"classifiers have no common scale; set {instance.name}.normalisation = 'per_class'"
            )
        if self.method == "stochastic" and not min(self.samples_of_views()):
            num_views = len(self.samples_of_views())
            raise ValueError(
                f"{instance.name}.num_samples = {self.num_samples} with samples_per = 'image' leaves some of the "
                f"{num_views} views without a map; set at least {num_views}, or fewer scales"
            )

    def check_environment(self, instance: Instance) -> None:
        """Check that the layer exists and yields a map, by a forward pass on the meta device."""
        if self.target_layer == LAST_LAYER:
            return
        import torch

        from wsss.models.layer_gradients import LayerGradients

        for slot in self._classifier_slots():
            trained = instance.stage_in(slot, ClassifierTraining)
            try:
                with torch.device("meta"):
                    network = cast("Classifier", trained.model(instance.inputs[slot], pretrained=False)).eval()
                    LayerGradients(network, layer=self.target_layer)(torch.zeros(1, 3, 256, 256), classes=[[1]])
            except ValueError as error:
                raise ValueError(f"target_layer = {self.target_layer!r}: {error}") from None

    def _check_head(self, instance: Instance, slot: str) -> None:
        classifier = instance.stage_in(slot, ClassifierTraining)
        needed = {"cam": "linear", "stochastic": "stochastic"}
        needed |= dict.fromkeys((*STAGE_METHODS, PROTOTYPE_METHOD), "linear")
        wanted = needed.get(self.method, classifier.head)
        if classifier.head != wanted:
            raise ValueError(
                f"{instance.name}.method = {self.method!r} needs a classifier with head = {wanted!r}; "
                f"{instance.inputs[slot].name}.head is {classifier.head!r}"
            )

    def _check_second_classifier(self, instance: Instance) -> None:
        """Two classifiers must not both claim a class."""
        one, other = instance.inputs["classifier"], instance.inputs["second_classifier"]
        learned = [
            set(instance.stage_in(slot, ClassifierTraining).learned(instance.inputs[slot]))
            for slot in ("classifier", "second_classifier")
        ]
        if both := learned[0] & learned[1]:
            names = ", ".join(instance.taxonomy.name_of(c) for c in sorted(both)[:3])
            raise ValueError(
                f"{instance.name}.second_classifier: {one.name} and {other.name} both learn {names}; name two "
                'different classifiers in inputs = { classifier = "...", second_classifier = "..." }, and set '
                "dropped_classes on the first and only_classes on the second"
            )

    def cautions(self, instance: Instance) -> list[str]:
        views = Views(scales=self.scales, long_side=self.long_side, max_side=self.max_side, setting="scales")
        trained = [instance.inputs[slot] for slot in self._classifier_slots()]
        return [note for one in trained for note in outside_notes(instance, one, views, splits=self.splits)]

    def arrays_per_record(self) -> int:
        return 2 if self.method == "stochastic" else 1  # their mean and their maximum

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Views of images with a class, through every classifier; then the maps of the classes present."""
        from wsss.stages.classifier.cost import cams_load

        load = Load()
        for slot in self._classifier_slots():
            trained = instance.stage_in(slot, ClassifierTraining)
            load += cams_load(self, context, slot=slot, trained=trained, longest=self.max_side)
        decoded = Load(core={"decode_image": context.stats.megapixels})
        notes = ("images that the classifier is not trained on are read and left out; the plan does not count that",)
        return context.map_work(
            decoded + load * context.stats.labelled_share,
            has_network=True,
            notes=() if self.train_images == "all" else notes,
        )

    def planned_stats(self, instance: Instance, stats: DatasetStats) -> DatasetStats:
        if self.train_images == "all":
            return stats
        trained, classifier = instance.inputs["classifier"], instance.stage_in("classifier", ClassifierTraining)
        chosen = classifier.planned_images(trained, stats.images.get(_TRAIN, 0), labels=stats.labels)
        images = {**stats.images, _TRAIN: round(chosen * (1 - classifier.hold_out))}
        # Only images with a class are chosen by images_per_class.
        share = 1.0 if classifier.images_per_class else stats.labelled_share
        return replace(stats, images=images, labelled_share=share)

    def worker(self, instance: Instance) -> ShardWorker:
        from wsss.stages.classifier.cam_maker import cam_record

        parts = BatchParts(self.batch_images, setting="batch_images")
        makers = [self._maker(instance, slot) for slot in self._classifier_slots()]
        learned = frozenset().union(*(maker.learned for maker in makers))
        trained_on = self._trained_on(instance)

        def read(joined: Mapping[str, Record], shard: str) -> Sample:
            return self.as_read(cast(Sample, joined["samples"]), split_of(shard))

        def make(shard: str, together: Sequence[Mapping[str, Record]], images: Sequence[np.ndarray]) -> list[CamRecord]:
            samples = [read(joined, shard) for joined in together]
            maps = zip(*(maker.cams(samples, images) for maker in makers), strict=True)
            return [
                cam_record(sample, parts, settings=self, unknown=self._still_unknown(sample, learned))
                for sample, parts in zip(samples, maps, strict=True)
            ]

        def leave_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
            sample = read(joined, shard)
            if trained_on is not None and split_of(shard) == _TRAIN and not trained_on(sample.key):
                return Missing(key=sample.key, reason="the classifier is not trained on it", left_out=True)
            if self.unknown_classes == "left_out" and (missing := left_out_for_unknown(sample, learned)) is not None:
                return missing
            return left_out_without_maps(sample, shard, learned)

        layers = {"samples": instance.inputs["samples"].layer}

        def work(shard: str) -> Iterator[Record | Missing]:
            of_shard = partial(make, shard)
            return work_per_group(layers, of_shard, parts=parts, leave_out=leave_out)(shard)

        return work

    def _still_unknown(self, sample: Sample, learned: Collection[int]) -> tuple[int, ...]:
        """The learned classes that the image may show, beside those with a map."""
        return () if self.unknown_classes == "predicted" else tuple(c for c in sample.unknown if c in learned)

    def _trained_on(self, instance: Instance) -> Callable[[str], bool] | None:
        """Whether an image of the split train gets maps, by its key; None if all do."""
        from wsss.stages.classifier.hold_out import is_trained_on

        if self.train_images == "all":
            return None
        return is_trained_on(instance.stage_in("classifier", ClassifierTraining), instance.inputs["classifier"])

    def _outputs(self, network: Classifier, images_B3HW: Tensor) -> Sequence[Tensor]:
        """The features that the method reads."""
        if self.method not in STAGE_METHODS:
            return (network.features(images_B3HW),)
        last, stages = network.stages(images_B3HW, finest_stride=self.finest_stride)
        return (*stages, last)

    def _maker(self, instance: Instance, slot: str) -> CamMaker:
        from wsss.models.inference import for_inference
        from wsss.stages.classifier.cam_maker import CamMaker

        trained, stage = instance.inputs[slot], instance.stage_in(slot, ClassifierTraining)
        network = load_trained(trained, device=worker_device())
        if self.method not in GRADIENT_METHODS:
            network = for_inference(network, look=self._outputs, gradients=self.method == "region_cam")
        learned = stage.learned(trained)
        directions: Mapping[int, Tensor] = {}
        if self.method == PROTOTYPE_METHOD:
            from wsss.stages.classifier.prototype_file import load_directions

            directions = load_directions(instance.inputs["prototypes"], device=worker_device())
        return CamMaker(self, network, stage, learned=learned, seed=instance.seed, directions=directions)
