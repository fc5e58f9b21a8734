"""make_agreed_labels: from several layers of label maps, the pseudo labels on which all of them agree.

Shape letters: `H W` pixels, `h w` the stride-4 grid, `M` label maps of one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, cast

import numpy as np

from shards.label_type import BYTE, LabelType
from shards.layer import split_of
from shards.records import ConfidentLabel, Prediction, PseudoLabel, Record, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.settings import active_unless, settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, ShardWorker

_NAMED = Records((PseudoLabel, Prediction), only_named=(PseudoLabel, Prediction))
_LABELS = ("first", "second", "third", "fourth")


@settings
class MakeAgreedLabels(Map):
    """Pixels in which two to four label maps differ are ignored (255); the confidence is the smallest.

    The label maps are pseudo labels or predictions that a recipe names under `inputs`: of IRNet and AffinityNet, of two
    rounds, or of two thresholds. An image that has no record in one of them has none here. evaluate refuses the result,
    because mean IoU needs a label for every pixel.

    Source: `wsss.ops.label_agreement`.
    """

    kind: ClassVar[str] = "make_agreed_labels"
    record_kind: ClassVar[str] = PseudoLabel.kind
    aligned_with: ClassVar[str] = "first"
    slots: ClassVar[dict[str, Slot]] = {"samples": Records((Sample,)), **dict.fromkeys(_LABELS, _NAMED)}
    optional_slots: ClassVar[frozenset[str]] = frozenset(_LABELS[2:])

    image_agreement: Annotated[bool, active_unless("image_agreement", False)] = False
    """True also records the agreement of every image: the mean IoU of its first label map with the others.
    keep_reliable_labels ranks images by it. The labels are the same."""

    def check(self, instance: Instance) -> None:
        read: dict[str, str] = {}
        for slot in _label_slots(instance):
            labels, stage = instance.inputs[slot], instance.stage_in(slot, Map)
            if labels.fingerprint in read:
                raise ValueError(
                    f"{instance.name}.inputs.{slot} names {labels.name}, the same labels as inputs."
                    f"{read[labels.fingerprint]}, so that they agree everywhere; name other labels"
                )
            read[labels.fingerprint] = slot
            if absent := [split for split in self.splits if split not in stage.splits]:
                raise ValueError(
                    f"{instance.name}.splits names {absent[0]!r}, which {labels.name} does not make "
                    f"({', '.join(stage.splits)}); set {instance.name}.splits or {labels.name}.splits"
                )

    def prepare(self, instance: Instance) -> None:
        """Raises: ValueError if labels were made for fewer shards."""
        for slot in _label_slots(instance):
            labels = instance.inputs[slot]
            if absent := sorted(set(self.shards(instance)) - set(labels.layer.shards())):
                raise ValueError(
                    f"{instance.name}.inputs.{slot}: {labels.name} has no shard {absent[0]} ({len(absent)} such); "
                    f"make it without max_shards, or set {instance.name}.max_shards to its value"
                )

    def optional_fields(self, instance: Instance) -> frozenset[str]:
        return frozenset({"disputed", "agreement"} if self.image_agreement else {"disputed"})

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Reading and writing only."""
        return context.map_work(Load(), has_network=False)

    def worker(self, instance: Instance) -> ShardWorker:
        slots = _label_slots(instance)
        layers = {slot: instance.inputs[slot].layer for slot in ("samples", *slots)}
        held = instance.label_type

        def make(joined: Mapping[str, Record]) -> PseudoLabel:
            return _agreed([cast(ConfidentLabel, joined[slot]) for slot in slots], held, measured=self.image_agreement)

        return work_per_record(layers, make, reads_images=False)

    def outcome(self, instance: Instance) -> Outcome:
        """The share of the pixels that became 255, per split, from the shards' manifest entries."""
        disputed, pixels = dict.fromkeys(self.splits, 0), dict.fromkeys(self.splits, 0)
        for shard in self.shards(instance):
            entries, split = instance.layer.manifest_entry(shard).entries, split_of(shard)
            disputed[split] += sum(entries.metadata("disputed"))
            pixels[split] += sum(height * width for height, width in entries.metadata("size"))
        shares = {split: disputed[split] / pixels[split] for split in self.splits if pixels[split]}
        return Outcome(
            metrics={f"disputed.{split}.pixel_share": share for split, share in shares.items()},
            notes=tuple(
                f"{split}: the labels differ in {100 * share:.1f} % of the pixels, which are ignored now"
                for split, share in shares.items()
            ),
        )


def _label_slots(instance: Instance) -> list[str]:
    return [slot for slot in _LABELS if slot in instance.inputs]


def _agreed(labels: list[ConfidentLabel], held: LabelType, *, measured: bool) -> PseudoLabel:
    """The agreed label of one image; its mask is of the type `held`, as those of `labels`. `measured`: its
    agreement is measured too."""
    import torch

    from wsss.ops.image_agreement import image_agreement
    from wsss.ops.label_agreement import agreed_labels

    stacked = np.stack([label.mask for label in labels])
    masks_MHW = torch.from_numpy(stacked if held == BYTE else stacked.astype(np.int32))
    agreed = agreed_labels(
        masks_MHW,
        ignore_index=held.ignore,
        confidences_Mhw=torch.from_numpy(np.stack([label.confidence for label in labels])),
    )
    return PseudoLabel(
        key=labels[0].key,
        mask=agreed.mask.numpy().astype(held.dtype, copy=False),
        confidence=agreed.confidence.numpy(),
        disputed=agreed.num_disputed,
        agreement=image_agreement(masks_MHW, ignore_index=held.ignore) if measured else None,
    )
