"""evaluate: compares any layer of maps, seeds, labels or predictions with the masks, at the original size.

The metrics depend on the type of record:
- Label maps: mean IoU, mean accuracy, pixel accuracy, boundary IoU, and the scores of each image.
- Instances: the same metrics for their classes, and the number of instances (masks do not separate instances).
- Score maps: the background threshold that is best on one half of the split is scored on the other half, and the
  reverse. Boundary IoU and scores of single images are left out, since they need one label map instead of one per
  threshold.
- Seeds: the share of pixels they cover, and the share of those that is correct.

`wsss.ops.confusion.Scores` documents the classes that each mean IoU averages over: `mean_iou` leaves out classes that
are in neither truth nor prediction (`absent_classes`); `mean_iou_all_classes` counts them as 0; `mean_iou_present`
averages over the classes in the truth, so that a network does not gain by never predicting a class
(`skipped_classes`); `mean_iou_foreground` is `mean_iou` without the background.

If predict stored label maps of subsets of its views (its setting `ablation`), the mean IoU of each is reported too:
`val.mean_iou.none` and so on.

Every mean IoU of a layer has a 95 % bootstrap interval over the measured images. For score maps, the counts per score
bin are saved; from them a sweep computes the result of any background threshold without making labels. With a dense CRF
after the threshold this is not possible: each threshold needs its own CRF run.

An image with unknown classes is not measured but counted (`unknown`): its maps do not say where the background is, and
its pseudo label has undecided pixels.

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
    """Compare a layer with the masks. The masks are only used for evaluation."""

    kind: ClassVar[str] = "evaluate"
    revision: ClassVar[int] = 3
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "records": Records((Prediction, PseudoLabel, InstanceLabel, ScoreRecord, SeedRecord, CamRecord)),
    }

    title: str = ""
    """Name of the row in the results table; if empty, the instance's name."""
    splits: Splits = ("val",)
    """Splits to evaluate, each separately; the leaderboard shows the metrics of the last one."""
    boundary_width: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Label maps: width of the bands of boundary IoU as a share of the image's diagonal; 0 skips boundary IoU."""
    num_gallery_images: Annotated[int, Field(ge=0, le=100)] = 8
    """Label maps: number of images in each of the two pictures of a split's best and worst images; 0 draws none."""

    def reads_masks(self) -> bool:
        return True

    def draws(self) -> bool:
        """The bootstrap interval resamples images."""
        return True

    def check(self, instance: Instance) -> None:
        records = instance.stage_in("records", Map)
        if absent := sorted(set(self.splits) - set(records.splits)):
            raise ValueError(
                f"{instance.name}.splits names {absent[0]!r}, but {instance.inputs['records'].name} makes only "
                f"{', '.join(records.splits)}; add it to {instance.inputs['records'].name}.splits, or remove it"
            )

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["records"].layer.shards() if split_of(shard) in self.splits]

    def skip_reason(self, instance: Instance) -> str:
        """Data without masks are not an error: the run continues and makes its predictions."""
        samples = instance.inputs["samples"].layer
        manifest = (entry for split in self.splits for entry in samples.manifest_entries(split))
        if any(has is not False for entry in manifest for has in entry.entries.metadata("has_mask")):  # None: unknown
            return ""
        splits = " and ".join(map(repr, self.splits))
        return f"no image of split {splits} has a mask, so nothing can be measured"

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Records of images with masks are compared with these; the others are read and skipped."""
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
            has_unknown_classes,
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
                if has_unknown_classes(joined["records"]):
                    sums[f"{split}.unknown"] += 1
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
                continue  # the table shows how many images have no mask, or no record
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
    """Subsets of the views whose label maps are stored in the records."""
    records = instance.inputs["records"].stage
    return records.ablation if isinstance(records, PredictionSettings) else ()
