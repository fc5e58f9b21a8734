"""evaluate: compares any layer of maps, seeds, labels or predictions with the masks, at the original size.

The metrics depend on the type of record:
- Label maps: mean IoU, mean accuracy, pixel accuracy, boundary IoU, and the scores of each image.
- Instances: the same metrics for their classes, and the number of instances (masks do not separate instances).
- Score maps: the background threshold that is best on one half of the split is scored on the other half, and the
  reverse. Boundary IoU and scores of single images are left out, since they need one label map instead of one per
  threshold. Stochastic maps can also be measured by FickleNet's rule (`rule = "ficklenet"`): then the threshold is its
  theta, and pixels without a seed are background.
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

`image_list` measures only the images of a list, or all others (`excluded` counts the images that are not measured).
So settings are chosen on a small part of the images, and reported on the rest.

`protocol = "imagenet_s"` adds the metrics of ImageNet-S's evaluator (`wsss.ops.object_sizes`): mean IoU and boundary
IoU with absent classes as 0, each also for small (S), medium (MS, ML) and large (L) objects, the share of images whose
largest predicted class is right, and F of the foreground; named `imagenet_s.mean_iou` and so on.

Shape letters: `C` classes with background, `H W` pixels, `N` score bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shards.layer import Layer, split_of
from shards.reader import join_shard
from shards.records import (
    CamRecord,
    InstanceLabel,
    Prediction,
    PseudoLabel,
    Sample,
    ScoreRecord,
    SeedRecord,
)
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.counts import Counts
from wsss.contract.settings import active_unless, settings
from wsss.contract.slots import Records, Slot
from wsss.contract.stage import Instance, Map, Outcome, Reduce, ShardCounter, Splits
from wsss.stages.evaluation.measured_images import EXCLUDED, MeasuredImages
from wsss.stages.segmenter.prediction_settings import PredictionSettings


@settings
class Evaluate(MeasuredImages, Reduce):
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
    rule: Annotated[Literal["threshold", "ficklenet"], active_unless("rule", "threshold")] = "threshold"
    """Activation and score maps: `threshold`, foreground if the score is at least a background threshold; `ficklenet`,
    foreground if any stochastic map is above theta, with the class of the highest mean map (the rule of
    make_seeds.rule = "ficklenet"). Both are counted at all thresholds i / 256 in one pass."""
    boundary_width: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Label maps: width of the bands of boundary IoU as a share of the image's diagonal; 0 skips boundary IoU."""
    num_gallery_images: Annotated[int, Field(ge=0, le=100)] = 8
    """Label maps: number of images in each of the two pictures of a split's best and worst images; 0 draws none."""
    protocol: Annotated[Literal["none", "imagenet_s"], active_unless("protocol", "none")] = "none"
    """Label maps: additional metrics by the conventions of another evaluator: `imagenet_s`, that of ImageNet-S, whose
    mean IoU counts absent classes as 0, also by the size of objects and for outlines."""

    def reads_masks(self) -> bool:
        return True

    def draws(self) -> bool:
        """The bootstrap interval resamples images."""
        return True

    def check(self, instance: Instance) -> None:
        self.check_image_list(instance, self.splits)
        records = instance.stage_in("records", Map)
        if absent := sorted(set(self.splits) - set(records.splits)):
            raise ValueError(
                f"{instance.name}.splits names {absent[0]!r}, but {instance.inputs['records'].name} makes only "
                f"{', '.join(records.splits)}; add it to {instance.inputs['records'].name}.splits, or remove it"
            )
        made = instance.inputs["records"]
        if self.protocol != "none" and made.layer.kind not in (
            Prediction.kind,
            PseudoLabel.kind,
            InstanceLabel.kind,
        ):
            raise ValueError(
                f"{instance.name}.protocol = {self.protocol!r} measures label maps, but {made.name} makes "
                f"{made.layer.kind} records; remove it, or measure predictions or pseudo labels"
            )
        if self.rule == "ficklenet" and (
            made.layer.kind != CamRecord.kind or "peak" not in records.optional_fields(made)
        ):
            raise ValueError(
                f"{instance.name}.rule = 'ficklenet' reads the maximum of stochastic maps, which {made.name} does not "
                "store; name the instance of make_cams with method = 'stochastic' as inputs.records, or remove rule"
            )
        if "disputed" in records.optional_fields(made):
            raise ValueError(
                f"{instance.name} cannot measure {made.name}, whose pixels are 255 where the labels it reads differ: "
                f"mean IoU needs a label for every pixel. Name another instance as inputs.records, such as "
                f"{_labelled_everywhere(made).name}, or the predictions of a segmenter that trains on it"
            )

    def shards(self, instance: Instance) -> list[str]:
        return [shard for shard in instance.inputs["records"].layer.shards() if split_of(shard) in self.splits]

    def skip_reason(self, instance: Instance) -> str:
        """Data without masks are not an error: the run continues and makes its predictions."""
        samples = instance.inputs["samples"].layer
        manifest = (entry for split in self.splits for entry in samples.manifest_entries(split))
        masked = (has is not False for entry in manifest for has in entry.entries.metadata("has_mask"))  # None: unknown
        if not any(masked):
            splits = " and ".join(map(repr, self.splits))
            return f"no image of split {splits} has a mask, so nothing can be measured"
        scored = instance.stage_in("records", Map).record_kind in (CamRecord.kind, ScoreRecord.kind)
        return self.one_half(instance) if scored else ""

    def one_half(self, instance: Instance) -> str:
        """Why a threshold or a setting cannot be chosen on one half of a split and scored on the other; else ""."""
        samples = instance.inputs["samples"].layer
        chosen = self.chosen_images(samples, self.splits, of=instance)
        for split in self.splits:
            halves = {position % 2 for position in _measured_positions(samples, split, chosen)}
            if len(halves) == 1:
                return (
                    f"all images of {split!r} that are measured are in one half of it (every second image of its "
                    "list), and what is chosen on one half is scored on the other; measure more images"
                )
        return ""

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """Records of images with masks are compared with these; the others are read and skipped."""
        stats, stage = context.stats, instance.stage_in("records", Map)
        images = {split: count for split, count in context.images("records").items() if split in self.splits}
        masked = self.planned_images(sum(count for split, count in images.items() if split in stats.masked_splits))
        if stage.record_kind in (CamRecord.kind, ScoreRecord.kind):
            counted = {"evaluate_maps": stats.megapixels * stats.labels}
        else:
            counted = {"evaluate_labels": stats.megapixels}
            outlines = bool(self.boundary_width) + (self.protocol != "none")
            if outlines and stage.record_kind != SeedRecord.kind:
                counted["evaluate_boundary"] = outlines * stats.megapixels
        return context.reduce_work(images, Load(core=counted) * (masked / max(sum(images.values()), 1)))

    def counter(self, instance: Instance) -> ShardCounter:
        from wsss.stages.evaluation.shard_counts import ShardTotals

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "records")}
        kind, num_classes = layers["records"].kind, len(instance.taxonomy) + 1
        chosen = self.chosen_images(layers["samples"], self.splits, of=instance)

        def count(shard: str) -> Counts:
            totals = ShardTotals(
                split_of(shard),
                splits=self.splits,
                kind=kind,
                num_classes=num_classes,
                subsets=_subsets(instance),
                by_peaks=self.rule == "ficklenet",
                boundary_width=self.boundary_width,
                protocol=self.protocol,
                chosen=chosen,
            )
            for joined in join_shard(layers, shard, how="inner"):
                totals.add(joined)
            return totals.counts()

        return count

    def finish(self, instance: Instance, counts: Counts) -> Outcome:
        from wsss.stages.evaluation.counts import TALLIES, subset_mean_iou
        from wsss.stages.evaluation.imagenet_s import metrics_of
        from wsss.stages.evaluation.summary import summarise

        records = instance.inputs["records"]
        metrics: dict[str, float] = {"labels_given": float(instance.stage_in("records", Map).given_labels())}
        tables: dict[str, list[dict[str, object]]] = {}
        artifacts: dict[str, str] = {}
        for split in self.splits:
            tallies = (*TALLIES, EXCLUDED) if self.image_list else TALLIES
            metrics |= {f"{split}.{name}": float(counts.total(f"{split}.{name}")) for name in tallies}
            if not counts.total(f"{split}.images"):
                continue  # the table shows how many images have no mask, or no record
            found = summarise(
                counts,
                instance,
                split,
                has_boundaries=self.boundary_width > 0,
                num_gallery_images=self.num_gallery_images,
                threshold_name="theta" if self.rule == "ficklenet" else "background threshold",
            )
            if records.layer.kind == InstanceLabel.kind:
                found.metrics["instances_per_image"] = counts.total(f"{split}.instances") / counts.total(
                    f"{split}.images"
                )
            if self.protocol != "none":
                found.metrics.update(metrics_of(counts, split))
            for name in _subsets(instance):
                found.metrics[f"mean_iou.{name}"] = subset_mean_iou(counts, split, name)
            metrics |= {f"{split}.{name}": value for name, value in found.metrics.items()} | found.metrics
            artifacts |= found.artifacts
            for name, rows in found.tables.items():
                tables[f"{name}.{split}"] = tables[name] = rows
        return Outcome(metrics=metrics, tables=tables, artifacts=artifacts)


def _measured_positions(samples: Layer, split: str, chosen: Callable[[str], bool] | None) -> Iterator[int]:
    """The places in the split's list of the images that have a mask, or may have one, and are chosen."""
    for entry in samples.manifest_entries(split):
        of = entry.entries
        for key, has, position in zip(of.keys, of.metadata("has_mask"), of.metadata("position"), strict=True):
            if has is not False and position is not None and (chosen is None or chosen(key)):
                yield int(position)


def _subsets(instance: Instance) -> tuple[str, ...]:
    """Subsets of the views whose label maps are stored in the records."""
    records = instance.inputs["records"].stage
    return records.ablation if isinstance(records, PredictionSettings) else ()


def _labelled_everywhere(made: Instance) -> Instance:
    """The nearest of the label maps that an instance was made from in which no pixel is ignored for a disagreement."""
    while isinstance(made.stage, Map) and "disputed" in made.stage.optional_fields(made):
        made = made.inputs.get("first") or made.inputs["labels"]
    return made
