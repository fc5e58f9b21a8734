"""make_prototypes: from images, their activation maps and a classifier, prototypes of every class and of its context.

make_cams with method = "lpcam" reads them. Features are collected shard by shard on CPUs; k-means then runs once, where
the recipe runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from shards.layer import Layer, split_of
from shards.manifest_entry import RecordEntry
from shards.reader import read_entry
from shards.records import BadSampleError, CamRecord, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.counts import Counts
from wsss.contract.fit import is_whole, load_trained
from wsss.contract.settings import settings
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, Outcome, ShardCounter
from wsss.stages.classifier.prototype_settings import PrototypeSettings, prototypes_path
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.trained_sizes import Views, outside_notes

if TYPE_CHECKING:
    import numpy as np

    from wsss.stages.classifier.prototype_clusters import ClassPrototypes

_NAMED_CLASSES = 3


@settings
class MakePrototypes(PrototypeSettings):
    """Cluster the features of every class; keep the clusters that the classifier recognises (LPCAM).

    Features of the layer that the classifier's head reads, at positions where the class's map is above
    `foreground_threshold`, are clustered by k-means with the cosine. A centre is a prototype of the class if the
    softmax of its logits gives the class more than `prototype_threshold`. Centres of the features below the
    threshold are context prototypes if they have between `context_lower_threshold` and `context_upper_threshold`.

    Source: Chen and Sun, CVPR 2023 (LPCAM), and its public code (zhaozhengChen/LPCAM), whose settings for VOC are the
    defaults.
    Differs: up to `positions_per_image` features of up to `images_per_class` images of a class are clustered, drawn by
    key (there: all of VOC's, 100 images of COCO's classes); maps on the stride-4 grid are resized bilinearly to the
    features (there: maps at the image's size, the nearest pixel); features are stored as float16; k-means as
    `wsss.ops.cosine_kmeans` says. The figures of the paper were not reproduced, and its text was not available: the
    description is that of the code.
    """

    kind: ClassVar[str] = "make_prototypes"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "cams": Records((CamRecord,)),
        "classifier": Trained(ClassifierTraining),
    }

    def draws(self) -> bool:
        return True

    def is_intact(self, instance: Instance) -> bool:
        return is_whole(prototypes_path(instance))

    def check(self, instance: Instance) -> None:
        classifier, cams = instance.stage_in("classifier", ClassifierTraining), instance.stage_in("cams", Map)
        named, cams_name = instance.inputs["classifier"].name, instance.inputs["cams"].name
        if classifier.head != "linear":
            raise ValueError(
                f"{instance.name} needs a classifier with head = 'linear'; {named}.head is {classifier.head!r}"
            )
        if classifier.folds > 1:
            raise ValueError(
                f"{instance.name} clusters the features of one network, but {named} is one of {classifier.folds} of a "
                "cross-fitting; name a classifier without folds in inputs.classifier"
            )
        if absent := [split for split in self.splits if split not in cams.splits]:
            raise ValueError(
                f"{instance.name}.splits names {absent[0]!r}, but {cams_name} makes only {', '.join(cams.splits)}; add "
                f"it to {cams_name}.splits, or remove it"
            )
        if self.context_lower_threshold >= self.context_upper_threshold:
            raise ValueError(
                f"{instance.name}.context_lower_threshold = {self.context_lower_threshold} is not below "
                f"context_upper_threshold = {self.context_upper_threshold}, so that no context prototype is kept; set "
                "a smaller one"
            )

    def cautions(self, instance: Instance) -> list[str]:
        classifier = instance.inputs["classifier"]
        views = Views(long_side=self.long_side, max_side=self.max_side)
        notes = outside_notes(instance, classifier, views, splits=self.splits)
        if len(instance.stage_in("classifier", ClassifierTraining).learned(classifier)) == 1:
            notes.append(
                f"{instance.name}: {classifier.name} learns one class, so its softmax is 1 for every cluster: all are "
                "kept as prototypes, and none as context"
            )
        return notes

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["cams"].layer.shards() if split_of(shard) in self.splits]

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """The chosen images once through the classifier, on CPUs; k-means on the driver is not counted."""
        from wsss.stages.settings.views import classifier_views

        stats, classifier = context.stats, instance.stage_in("classifier", ClassifierTraining)
        images = {split: count for split, count in context.images("cams").items() if split in self.splits}
        wanted = self.images_per_class * len(classifier.learned(instance.inputs["classifier"])) / max(stats.labels, 1.0)
        share = min(1.0, wanted / max(sum(images.values()), 1))
        (size,) = classifier_views(stats.size, scales=(1.0,), long_side=self.long_side, max_side=self.max_side)
        load = Load(
            core={"decode_image": stats.megapixels}, flops=context.network("classifier").forward(size), passes=1
        )
        return context.reduce_work({split: round(count * share) for split, count in images.items()}, load)

    def counter(self, instance: Instance) -> ShardCounter:
        from wsss.models.inference import for_inference
        from wsss.stages.classifier.prototype_features import FeatureReader, chosen_images, counted

        trained, stage = instance.inputs["classifier"], instance.stage_in("classifier", ClassifierTraining)
        layers = [instance.inputs[slot].layer for slot in ("samples", "cams")]
        network = for_inference(load_trained(trained), look=lambda network, images: network.features(images))
        reader = FeatureReader(self, network, stage, seed=instance.seed)
        chosen = chosen_images(
            *layers,
            splits=self.splits,
            learned=stage.learned(trained),
            images_per_class=self.images_per_class,
            seed=instance.seed,
        )

        def count(shard: str) -> Counts:
            rows: list[Mapping[str, np.ndarray]] = []
            of_shard = chosen.get(shard, {})
            for key, entries in _entries(layers, shard, of_shard).items():
                sample, maps = (read_entry(layer, shard, entry) for layer, entry in zip(layers, entries, strict=True))
                try:
                    rows += reader.rows(cast(Sample, sample), cast(CamRecord, maps), classes=of_shard[key])
                except BadSampleError:
                    continue  # an image that cannot be decoded is left out, as by other stages
            return counted(rows)

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        from wsss.ops.cam import class_rows
        from wsss.stages.classifier.prototype_clusters import cluster_classes
        from wsss.stages.classifier.prototype_file import write_prototypes

        trained, path = instance.inputs["classifier"], prototypes_path(instance)
        learned = instance.stage_in("classifier", ClassifierTraining).learned(trained)
        weights_CD = load_trained(trained).cam_weights.detach()
        weights_LD = weights_CD[class_rows(learned, num_rows=len(weights_CD))]
        found = cluster_classes(counts, weights_LD=weights_LD, learned=learned, stage=self, seed=instance.seed)
        write_prototypes(path, found)
        names = {class_id: instance.taxonomy.name_of(class_id) for class_id in found}
        return Outcome(
            metrics={
                "prototypes": float(sum(len(one.prototypes) for one in found.values())),
                "contexts": float(sum(len(one.contexts) for one in found.values())),
                "features": float(sum(sum(one.num_features) for one in found.values())),
                "classes_without_prototype": float(sum(not len(one.prototypes) for one in found.values())),
            },
            tables={"prototypes": [_row(names[class_id], class_id, one) for class_id, one in found.items()]},
            artifacts={path.name: str(path)},
            notes=tuple(self._notes({names[class_id]: one for class_id, one in found.items()})),
        )

    def _notes(self, found: Mapping[str, ClassPrototypes]) -> Iterator[str]:
        """What a reader should know of classes without a sure prototype; `found`: by name of class."""
        if none := [name for name, one in found.items() if not len(one.prototypes)]:
            yield (
                f"no feature of {_few(none)} is above foreground_threshold = {self.foreground_threshold}; maps of "
                "method = 'lpcam' are 0 there"
            )
        limit = self.prototype_threshold
        if unsure := [name for name, one in found.items() if len(one.prototypes) and one.largest_response <= limit]:
            yield (
                f"no cluster of {_few(unsure)} is above prototype_threshold = {limit}; the most probable one is its "
                "only prototype"
            )


def _entries(layers: Sequence[Layer], shard: str, keys: Collection[str]) -> dict[str, list[RecordEntry]]:
    """Key -> the entry of each layer, in the order of the first."""
    if not keys:
        return {}
    entries = [layer.manifest_entry(shard).entries for layer in layers]
    places = [{key: place for place, key in enumerate(of_layer.keys)} for of_layer in entries]
    return {
        key: [of_layer[by_key[key]] for of_layer, by_key in zip(entries, places, strict=True)]
        for key in places[0]
        if key in keys
    }


def _row(name: str, class_id: int, found: ClassPrototypes) -> dict[str, object]:
    return {
        "class": name,
        "class_id": class_id,
        "features": found.num_features[0],
        "context_features": found.num_features[1],
        "prototypes": len(found.prototypes),
        "contexts": len(found.contexts),
        "largest_response": found.largest_response,
    }


def _few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMED_CLASSES
    return ", ".join(names[:_NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
