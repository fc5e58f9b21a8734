"""Messages about submissions: their contents, their score, and whether another prediction scores higher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote

from shards.files import sha256_of
from shards.records import RunRecord
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.pipeline.changed_settings import changed_settings
from wsss.pipeline.recipe import Recipe
from wsss.report.results_table import SUBSETS
from wsss.report.run_files import (
    FileName,
    copy_file,
    described,
    in_words,
    read_description,
    write_description,
)
from wsss.stages.evaluate import Evaluate
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit

ZIP = "results.zip"
"""The artifact of a `submit` instance."""
_EARLIER_SHOWN = 3


@dataclass(frozen=True)
class Score:
    """The mean IoU of predictions on a split, as an `evaluate` instance measured it."""

    predictions: str
    split: str
    mean_iou: float
    measured_by: str

    def __str__(self) -> str:
        return f"{_points(self.mean_iou)} on {self.split} ({self.measured_by})"


@dataclass(frozen=True)
class Comparison:
    """The score of the submitted predictions, and the best other one of the recipe on the same split and images."""

    own: Score | None = None
    best_other: Score | None = None
    better_views: tuple[str, float] | None = None
    """The subset of the submitted predictions' views that scores highest, and its mean IoU, if it scores higher than
    all of them."""


def compare_scores(recipe: Recipe, submit: Instance, records: Mapping[str, RunRecord]) -> Comparison:
    """Compare a submission with the recipe's other predictions. `records`: of the finished instances."""
    predictions, stage = submit.inputs["predictions"], submit.stage
    assert isinstance(stage, Submit)
    scores = list(_scores(recipe, records))
    own = [score for one, score in scores if _same_network(one, predictions)]
    # Shards of their own for the test split, say: then the other predictions are compared on those of the own score.
    of_own = {one.samples.fingerprint for one, _ in scores if _same_network(one, predictions)}
    comparable = of_own | {predictions.samples.fingerprint}
    others = [
        score for one, score in scores if not _same_network(one, predictions) and one.samples.fingerprint in comparable
    ]
    splits = [score.split for score in own or others]
    if not splits:
        return Comparison()
    wanted = next((split for split in (stage.split, "val") if split in splits), splits[-1])
    of_split = [[score for score in group if score.split == wanted] for group in (own, others)]
    best_own, best_other = (max(group, key=lambda score: score.mean_iou, default=None) for group in of_split)
    return Comparison(best_own, best_other, _better_views(best_own, records))


def _better_views(own: Score | None, records: Mapping[str, RunRecord]) -> tuple[str, float] | None:
    """`predict.ablation` measures subsets of the views; the best of them, if it scores higher than all views."""
    if own is None:
        return None
    metrics = records[own.measured_by].metrics
    measured = {name: metrics.get(f"{own.split}.mean_iou.{name}", 0.0) for name in SUBSETS}
    best = max(measured, key=measured.__getitem__)
    return (best, measured[best]) if measured[best] > own.mean_iou else None


def _scores(recipe: Recipe, records: Mapping[str, RunRecord]) -> Iterator[tuple[Instance, Score]]:
    """Every measured prediction that was made without labels, with its score on each split."""
    for instance in recipe.instances:
        record, stage = records.get(instance.name), instance.stage
        if record is None or not isinstance(stage, Evaluate):
            continue
        measured = instance.inputs["records"]
        if not isinstance(measured.stage, Predict) or measured.stage.labels != "none":
            continue
        for split in stage.splits:
            if (mean_iou := record.metrics.get(f"{split}.mean_iou")) is not None:
                yield measured, Score(measured.name, split, mean_iou, instance.name)


def _same_network(one: Instance, other: Instance) -> bool:
    """True if two predictions differ only in their images, for example those of the val and the test split."""
    return _without_images(one) == _without_images(other)


def _without_images(predictions: Instance) -> tuple[dict[str, object], dict[str, str]]:
    values = hashed_values(predictions.stage)
    for name in ("splits", "max_shards"):
        values.pop(name, None)
    inputs = {slot: upstream.fingerprint for slot, upstream in predictions.inputs.items() if slot != "samples"}
    return values, inputs


def deliver_submission(recipe: Recipe, submit: Instance, records: Mapping[str, RunRecord]) -> Iterator[str]:
    """Copy a finished submission to the results folder, write its .json, and yield the lines to print."""
    stage, record, predictions = submit.stage, records[submit.name], submit.inputs["predictions"]
    assert isinstance(stage, Submit)
    source, name = Path(record.artifacts[ZIP]), FileName(submit.name, submit.fingerprint)
    target = recipe.results / f"{name.stem}.zip"
    found, num_images = compare_scores(recipe, submit, records), round(record.metrics["images"])
    scored = "not measured by any evaluate instance" if found.own is None else str(found.own)
    yield f"{target}: {num_images} images of split {stage.split!r} by {predictions.name}, {scored}"
    yield from _about_better(recipe, submit, found)
    options = f"--samples {quote(str(predictions.samples.path))} --split {quote(stage.split)}"
    options += "" if stage.format == "lid" else f" --format {stage.format}"
    command = f"wsss check-submission {quote(str(target))} {options} --num-classes {len(submit.taxonomy)}"
    yield f"{command} checks it"
    digest, replaced = sha256_of(source), None
    if target.is_file() and sha256_of(target) != digest:
        replaced = f"{datetime.fromtimestamp(target.stat().st_mtime):%Y-%m-%d %H:%M}"
        yield f"replaces a file with the same settings, written {replaced}, because the recomputed masks differ"
    copy_file(source, target)
    description = {
        "file": target.name,
        "sha256": digest,
        "instance": submit.name,
        "fingerprint": submit.fingerprint,
        "split": stage.split,
        "num_images": num_images,
        "predictions": predictions.name,
        "predictions_fingerprint": predictions.fingerprint,
        "validation": None if found.own is None else asdict(found.own),
        "best_other_prediction": None if found.best_other is None else asdict(found.best_other),
        "git_commit": record.git_commit,
    }
    write_description(target.with_suffix(".json"), described(recipe, description, behind=submit))
    yield from _about_earlier(recipe, submit, target)


def _about_better(recipe: Recipe, submit: Instance, found: Comparison) -> Iterator[str]:
    best, own = found.best_other, found.own
    if own is not None and found.better_views is not None:
        name, mean_iou = found.better_views
        how = _as_settings(own.predictions, name)
        yield f"{SUBSETS[name]} scores higher: {_points(mean_iou)} on {own.split}; {how}"
    if best is None:
        return
    if own is not None and best.mean_iou <= own.mean_iou:
        yield f"no other measured prediction is better; the next one: {best.predictions}, {best}"
        return
    scores = "scores higher" if own is not None else "is measured"
    stage, other = submit.stage, recipe.instance(best.predictions).stage
    assert isinstance(stage, Submit) and isinstance(other, Predict)
    how = f"--set {submit.name}.inputs.predictions={best.predictions} submits it"
    if stage.split not in other.splits:
        how = f"it predicts {', '.join(other.splits)} and not {stage.split}"
    yield f"another prediction {scores}: {best.predictions}, {best}; {how}"


def _points(mean_iou: float) -> str:
    return f"mean IoU {100 * mean_iou:.1f}"


def _as_settings(predictions: str, subset: str) -> str:
    """What to set so that the views of a subset are predicted and submitted."""
    scales, flip = f"--set '{predictions}.scales=[1.0]'", f"--set {predictions}.flip="
    given = {"none": f"{scales} {flip}false", "flip": f"{scales} {flip}true", "scales": f"{flip}false"}
    return f"{given.get(subset, f'{flip}true')} submits that"


def _about_earlier(recipe: Recipe, submit: Instance, target: Path) -> Iterator[str]:
    """Other submissions in the same folder, which are kept."""
    others = [path for path in target.parent.glob("*.zip") if path != target and path.with_suffix(".json").is_file()]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    shown = []
    for path in others[:_EARLIER_SHOWN]:
        known = read_description(path.with_suffix(".json"))
        images, made_by = known.get("num_images", "?"), _made_by(recipe, known, submit)
        shown.append(f"{path.name} ({images} images, {_score_of(known)}; {made_by})")
    if len(others) > _EARLIER_SHOWN:
        shown.append(f"{len(others) - _EARLIER_SHOWN} more")
    if shown:
        yield f"also kept in this folder: {'; '.join(shown)}"


def _score_of(known: Mapping[str, object]) -> str:
    validation = known.get("validation")
    return str(Score(**validation)) if isinstance(validation, dict) else "not measured"


def _made_by(recipe: Recipe, known: Mapping[str, object], submit: Instance) -> str:
    """What distinguishes another file: its instance, or the settings that were changed for it."""
    if known.get("instance") != submit.name:
        return f"instance {known.get('instance')}"
    changed = known.get("changed_settings")
    if changed == changed_settings(recipe, submit):
        return "a different version of the recipe file"
    return in_words(changed) if isinstance(changed, dict) else "settings unknown"
