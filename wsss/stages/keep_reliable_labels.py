"""keep_reliable_labels: of a layer of label maps, those of the images whose label maps agree best."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast

from pydantic import Field

from shards.codec import to_json
from shards.files import write_bytes
from shards.layer import split_of
from shards.records import ConfidentLabel, Missing, Prediction, PseudoLabel, Record, Sample
from wsss.contract.cost import DatasetStats, Load, PlanContext, ShardWork
from wsss.contract.settings import settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, ShardWorker, Splits

LIMITS = "limits.json"
"""Split -> the last image that is kept and its agreement, how many images were ranked, and how many are kept; written
once, before the first shard."""
_LESS_RELIABLE = "less reliable than the kept share of images"


@settings
class KeepReliableLabels(Map):
    """Keep the label maps of the images whose label maps agree best; leave out the other images, and count them.

    `inputs.labels` are the label maps that are kept as they are, pseudo labels or predictions. `inputs.agreement` is a
    make_agreed_labels with `image_agreement = true`, whose values rank the images of each split. A segmenter that
    trains on the result sees the most reliable images alone; the next one trains on its predictions of all images.

    Source: Yang et al., CVPR 2022, "ST++: Make Self-training Work Better for Semi-supervised Semantic Segmentation":
    the better half of the unlabelled images first, then all, of which the worse half is labelled again.
    Differs: the paper compares predictions of three checkpoints of one training; here any label maps, such as those of
    trainings of different length, since a training keeps one checkpoint. In the second round all images are labelled
    again, not only the less reliable ones.
    """

    kind: ClassVar[str] = "keep_reliable_labels"
    record_kind: ClassVar[str] = PseudoLabel.kind
    aligned_with: ClassVar[str] = "labels"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "labels": Records((PseudoLabel, Prediction), only_named=(PseudoLabel, Prediction)),
        "agreement": Records((PseudoLabel,), only_named=(PseudoLabel,)),
    }

    splits: Splits = ("train",)
    """Splits to process; the images of each are ranked among themselves."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of a split's images that is kept, rounded down, but at least one image. Of images with the same agreement
    those with the first keys are kept."""

    def check(self, instance: Instance) -> None:
        for slot in ("labels", "agreement"):
            read, stage = instance.inputs[slot], instance.stage_in(slot, Map)
            if absent := [split for split in self.splits if split not in stage.splits]:
                raise ValueError(
                    f"{instance.name}.splits names {absent[0]!r}, which {read.name} does not make "
                    f"({', '.join(stage.splits)}); set {instance.name}.splits or {read.name}.splits"
                )
        agreement = instance.inputs["agreement"]
        if "agreement" not in instance.stage_in("agreement", Map).optional_fields(agreement):
            raise ValueError(
                f"{instance.name}.inputs.agreement names {agreement.name}, which does not record how far the label "
                "maps of an image agree; name a make_agreed_labels, and set its image_agreement = true"
            )

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        """`disputed` if the label maps that are kept have ignored pixels because of a disagreement."""
        return instance.stage_in("labels", Map).optional_fields(instance.inputs["labels"]) & {"disputed"}

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Reading and writing only."""
        notes = ("images that are left out are read as well; the plan does not count that",)
        return context.map_work(Load(), has_network=False, notes=notes)

    def planned_stats(self, instance: Instance, stats: DatasetStats) -> DatasetStats:
        kept = {split: self._num_kept(number) for split, number in stats.images.items() if split in self.splits}
        return replace(stats, images={**stats.images, **kept})

    def _num_kept(self, num_images: int) -> int:
        # The nearest float of a share such as 0.29 may be too small: 0.29 of 100 images are 29.
        return max(1, int(self.share * num_images + 1e-9))

    def prepare(self, instance: Instance) -> None:
        """Rank the images of all shards by the manifest entries, which have their agreement."""
        ranked: dict[str, list[tuple[float, str]]] = {split: [] for split in self.splits}
        shards, agreement = self.shards(instance), instance.inputs["agreement"]
        if absent := sorted(set(shards) - set(agreement.layer.shards())):
            raise ValueError(
                f"{instance.name} ranks the images of all its shards, but {agreement.name} has no shard {absent[0]}; "
                f"make {agreement.name} without max_shards, or set {instance.name}.max_shards to its value"
            )
        for shard in shards:
            labelled = set(instance.inputs["labels"].layer.manifest_entry(shard).entries.keys)
            found = _agreements(instance, shard)
            ranked[split_of(shard)] += [(-value, key) for key, value in found.items() if key in labelled]
        limits = {split: self._limit(sorted(images)) for split, images in ranked.items() if images}
        write_bytes(instance.path / LIMITS, to_json(limits), what="the last images that are kept")

    def _limit(self, ranked: list[tuple[float, str]]) -> dict[str, Any]:
        kept = self._num_kept(len(ranked))
        value, key = ranked[kept - 1]
        return {"agreement": -value, "key": key, "ranked": len(ranked), "kept": kept}

    def worker(self, instance: Instance) -> ShardWorker:
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "labels")}
        limits = _limits(instance)

        def make(joined: Mapping[str, Record]) -> PseudoLabel:
            label = cast(ConfidentLabel, joined["labels"])
            return PseudoLabel(key=label.key, mask=label.mask, confidence=label.confidence)

        def work(shard: str) -> Iterator[Record | Missing]:
            found, absent = _agreements(instance, shard), _without_agreement(instance, shard)

            def left_out(joined: Mapping[str, Record], shard: str) -> Missing | None:
                key = joined["samples"].key
                if key not in found:
                    return absent.get(key, Missing(key=key, reason="agreement: not in the layer"))
                limit = limits[split_of(shard)]
                if (-found[key], key) <= (-limit["agreement"], limit["key"]):
                    return None
                return Missing(key=key, reason=_LESS_RELIABLE, left_out=True)

            return work_per_record(layers, make, leave_out=left_out, reads_images=False)(shard)

        return work

    def outcome(self, instance: Instance) -> Outcome:
        """The number of images that are kept and the smallest agreement among them, per split."""
        limits = _limits(instance)
        metrics = {f"kept.{split}.images": float(limit["kept"]) for split, limit in limits.items()}
        lowest = {f"kept.{split}.lowest_agreement": limit["agreement"] for split, limit in limits.items()}
        notes = tuple(
            f"{split}: {limit['kept']} of {limit['ranked']} images are kept; the label maps of each of them agree to a "
            f"mean IoU of at least {100 * limit['agreement']:.1f}"
            for split, limit in limits.items()
        )
        return Outcome(metrics=metrics | lowest, notes=notes)


def _limits(instance: Instance) -> dict[str, dict[str, Any]]:
    limits: dict[str, dict[str, Any]] = json.loads((instance.path / LIMITS).read_bytes())
    return limits


def _agreements(instance: Instance, shard: str) -> dict[str, float]:
    """Key -> agreement of the images of a shard."""
    entries = instance.inputs["agreement"].layer.manifest_entry(shard).entries
    return dict(zip(entries.keys, entries.metadata("agreement"), strict=True))


def _without_agreement(instance: Instance, shard: str) -> dict[str, Missing]:
    """Key -> why an image of a shard has no agreement."""
    missing = instance.inputs["agreement"].layer.manifest_entry(shard).missing
    return {one.key: replace(one, reason=f"agreement: {one.reason}") for one in missing}
