"""evaluate: any layer of maps, seeds, labels or predictions against the masks, at the original size.

What is measured follows from the record. Label maps: mean IoU, mean accuracy, pixel accuracy, boundary IoU, the scores
of every image by itself. Instances: the same of their classes, and how many there are (no mask tells instances apart).
Score maps: the same at the background threshold that is best on one half of the split and scored on the other, and the
reverse; but for boundary IoU and single images, which need one label map and not one per threshold. Seeds: how much of
the image they cover, and how much of that is right.

Which classes a mean IoU is taken over is told by `wsss.ops.confusion.Scores`: `mean_iou` leaves out those in neither
truth nor prediction (`absent_classes`), `mean_iou_all_classes` counts them as 0, and `mean_iou_present`, over the
classes of the truth, is the one that no network gains on by never predicting a class (`skipped_classes`).

Where predict kept what subsets of its views give (its setting `ablation`), each has its mean IoU beside the
prediction's: `val.mean_iou.none` and so on.

Every mean IoU of a layer has an interval: 95 % of what it would be on images drawn anew from those measured. Score
maps leave their counts by score bin, from which a sweep reads any background threshold without making labels; this
holds for labels that the threshold alone makes: with a dense CRF after it, every threshold costs a CRF of its own.

Shape letters: `C` classes with background, `H W` pixels, `N` score bins.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, cast

import numpy as np
from pydantic import Field

from shards.layer import split_of
from shards.reader import join_shard
from shards.records import (
    CamRecord,
    InstanceLabel,
    Missing,
    Prediction,
    PseudoLabel,
    Sample,
    ScoreRecord,
    SeedRecord,
)
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.counts import Counts
from wsss.contract.settings import settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter, Splits
from wsss.stages.segmenter.prediction_settings import PredictionSettings


@settings
class Evaluate(Reduce):
    """Measure a layer against the masks. Masks are for measuring only."""

    kind: ClassVar[str] = "evaluate"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "records": Records((Prediction, PseudoLabel, InstanceLabel, ScoreRecord, SeedRecord, CamRecord)),
    }

    title: str = ""
    """Name of the row in the table; the instance's own where empty."""
    splits: Splits = ("val",)
    """Splits to measure, each by itself; the last one gives the figures of the leaderboard."""
    boundary_width: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Width of the bands of boundary IoU as a share of the image's diagonal, for label maps; 0 leaves it out."""
    num_gallery_images: Annotated[int, Field(ge=0, le=100)] = 8
    """Rows of the pictures of the best and of the worst images of a split, for label maps; 0 draws none."""

    def reads_masks(self) -> bool:
        return True

    def draws(self) -> bool:
        """For the interval, images are drawn anew."""
        return True

    def check(self, instance: Instance) -> None:
        records = instance.stage_in("records", Map)
        if absent := sorted(set(self.splits) - set(records.splits)):
            raise ValueError(
                f"{instance.name}.splits names {absent[0]!r}, which {instance.inputs['records'].name} does not make; "
                f"it makes {', '.join(records.splits)}"
            )

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["records"].layer.shards() if split_of(shard) in self.splits]

    def skip_reason(self, instance: Instance) -> str:
        """Data without masks are no fault: the run goes on to its predictions."""
        samples = instance.inputs["samples"].layer
        rows = (row for split in self.splits for row in samples.manifest_entries(split))
        if any(fact is not False for row in rows for fact in row.entries.metadata("has_mask")):  # None: it is not known
            return ""
        splits = " and ".join(map(repr, self.splits))
        return f"no image of split {splits} has a mask, so nothing can be measured"

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Records of images with masks against these; the others are read and passed over."""
        stats, stage = context.stats, instance.stage_in("records", Map)
        images = {split: count for split, count in context.images("records").items() if split in self.splits}
        masked = sum(count for split, count in images.items() if split in stats.masked_splits)
        if stage.record_kind in (CamRecord.kind, ScoreRecord.kind):
            counted = {"evaluate_maps": stats.megapixels * stats.labels}
        else:
            counted = {"evaluate_labels": stats.megapixels}
            if self.boundary_width and stage.record_kind != SeedRecord.kind:
                counted["evaluate_boundary"] = stats.megapixels
        return context.reduce_work(images, Load(core=counted) * (masked / max(sum(images.values()), 1)))

    def counter(self, instance: Instance) -> ShardCounter:
        from wsss.stages.evaluation.counts import (
            FOLDS,
            LABELLED,
            add_image,
            add_subsets,
            count_boundary,
            empty_counts,
            empty_rows,
        )

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "records")}
        kind, num_classes = layers["records"].kind, len(instance.taxonomy) + 1
        subsets = _subsets(instance)

        def count(shard: str) -> Counts:
            split = split_of(shard)
            sums = {
                f"{s}.{name}": array
                for s in self.splits
                for name, array in empty_counts(kind, num_classes, subsets=subsets).items()
            }
            rows = {s: [empty_rows(kind)] for s in self.splits}
            for joined in join_shard(layers, shard, how="inner"):
                if isinstance(joined, Missing):
                    sums[f"{split}.{'left_out' if joined.left_out else 'missing'}"] += 1
                    continue
                sample = cast(Sample, joined["samples"])
                if sample.mask is None:
                    sums[f"{split}.unmasked"] += 1
                    continue
                sums[f"{split}.images"] += 1
                rows[split].append(add_image(sums[f"{split}.fold{sample.position % FOLDS}"], joined["records"], sample))
                add_subsets(sums, split, joined["records"], sample, subsets=subsets)
                if kind in LABELLED and self.boundary_width > 0:
                    sums[f"{split}.boundary"] += count_boundary(
                        joined["records"], sample, num_classes=num_classes, width=self.boundary_width
                    )
                if isinstance(joined["records"], InstanceLabel):
                    sums[f"{split}.instances"] += len(joined["records"].classes)
            return Counts(sums=sums, rows={s: np.concatenate(found) for s, found in rows.items()})

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        from wsss.stages.evaluation.counts import TALLIES, subset_mean_iou
        from wsss.stages.evaluation.summary import summarise

        records = instance.inputs["records"]
        metrics: dict[str, float] = {"labels_given": float(instance.stage_in("records", Map).given_labels())}
        tables: dict[str, list[dict[str, object]]] = {}
        artifacts: dict[str, str] = {}
        for split in self.splits:
            metrics |= {f"{split}.{name}": float(counts.total(f"{split}.{name}")) for name in TALLIES}
            if not counts.total(f"{split}.images"):
                continue  # the table tells how many have no mask, or no record
            found = summarise(
                counts,
                instance,
                split,
                has_boundaries=self.boundary_width > 0,
                num_gallery_images=self.num_gallery_images,
            )
            if records.layer.kind == InstanceLabel.kind:
                found.metrics["instances_per_image"] = counts.total(f"{split}.instances") / counts.total(
                    f"{split}.images"
                )
            for name in _subsets(instance):
                found.metrics[f"mean_iou.{name}"] = subset_mean_iou(counts, split, name)
            metrics |= {f"{split}.{name}": value for name, value in found.metrics.items()} | found.metrics
            artifacts |= found.artifacts
            for name, rows in found.tables.items():
                tables[f"{name}.{split}"] = tables[name] = rows
        return Outcome(metrics=metrics, tables=tables, artifacts=artifacts)


def _subsets(instance: Instance) -> tuple[str, ...]:
    """Subsets of the views whose label maps the records hold."""
    records = instance.inputs["records"].stage
    return records.ablation if isinstance(records, PredictionSettings) else ()
