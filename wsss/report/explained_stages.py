"""One image through every stage of a recipe: the pictures of each stage, and the values that made them.

What a stage stored is read from its layer; what lies between two layers (the boundary map, the walk after fewer steps,
labels before the CRF, the prediction of single views) is computed again with the stage's own settings and weights.

Shape letters: `K` classes, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np

from shards.label_type import ignore_of, label_type
from shards.records import (
    CamRecord,
    ConfidentLabel,
    InstanceLabel,
    PseudoLabel,
    Record,
    Sample,
    ScoreRecord,
    SeedRecord,
)
from shards.wording import counted
from wsss.contract.settings import inactive_settings, setting_values
from wsss.contract.stage import Instance
from wsss.pictures.sheets import error_map, heat, overlay
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import NETWORKS, MakeScores
from wsss.stages.predict import Predict
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining

MAX_CLASSES = 6
"""Maps shown for one image: those of the first classes."""


@dataclass(frozen=True)
class Picture:
    """A picture of the image's size, u8[H, W, 3], and what it shows."""

    caption: str
    pixels: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Step:
    """What one instance did with the image."""

    title: str
    values: str
    """The settings and results that explain the pictures."""
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Explained:
    """The image, as all steps need it."""

    sample: Sample
    image: np.ndarray
    name_of: Callable[[int], str]
    records: Mapping[str, Record]
    """Instance -> its record of the image."""

    def score(self, mask: np.ndarray) -> str:
        """The mean IoU of a label map of this image, as text; empty without a truth.

        It needs a label for every pixel; for a label map with undecided pixels the text is their share.
        """
        undecided = (mask == ignore_of(mask)).mean()
        if undecided:
            return f"{100 * undecided:.1f} % of the pixels undecided"
        if self.sample.mask is None:
            return ""
        from wsss.data.images import label_tensor
        from wsss.ops.confusion import Scores, confusion_matrix

        ignored, truth = ignore_of(self.sample.mask), self.sample.mask
        num_classes = 1 + max(int(mask.max()), *(int(v) for v in np.unique(truth) if v != ignored), 0)
        matrix_CC = confusion_matrix(
            label_tensor(truth), label_tensor(mask), num_classes=num_classes, ignore_index=ignored
        )
        return f"mean IoU of this image {100 * Scores.from_confusion(matrix_CC).mean_iou:.1f}"


def steps_of(instance: Instance, about: Explained) -> Step:
    """The step of an instance that has a record of the image."""
    record = about.records[instance.name]
    title = f"{instance.name} ({instance.stage.kind})"
    if isinstance(record, Sample):
        return _sample_step(title, about)
    if isinstance(record, CamRecord):
        return _maps_step(title, instance, about, record.maps, record.classes, probabilities=record.probabilities)
    if isinstance(record, ScoreRecord):
        step = _maps_step(title, instance, about, record.scores, record.classes)
        return replace(step, pictures=[*_walk_pictures(instance, about), *step.pictures])
    if isinstance(record, SeedRecord):
        return _seed_step(title, instance, about, record)
    if isinstance(record, InstanceLabel):
        values = f"{len(record.classes)} instances; {about.score(record.mask)}"
        return Step(title, values, [Picture("classes of the instances", overlay(about.image, record.mask))])
    assert isinstance(record, ConfidentLabel)
    return _label_step(title, instance, about, record)


def _sample_step(title: str, about: Explained) -> Step:
    sample = about.sample
    names = ", ".join(map(about.name_of, sample.classes)) or "none"
    unknown = f"; {len(sample.unknown)} classes not checked" if sample.unknown else ""
    boxes = "" if sample.boxes is None else f"; boxes of {counted(len(sample.boxes), 'object')}"
    height, width = sample.size
    pictures = [Picture("image", about.image)]
    if sample.mask is not None:
        pictures.append(Picture("truth (only for evaluation)", overlay(about.image, sample.mask)))
    return Step(title, f"{height} x {width} pixels; classes: {names}{unknown}{boxes}", pictures)


def _maps_step(
    title: str,
    instance: Instance,
    about: Explained,
    maps_Khw: np.ndarray,
    classes: np.ndarray,
    *,
    probabilities: np.ndarray | None = None,
) -> Step:
    pictures = []
    for place, class_id in enumerate(classes.tolist()[:MAX_CLASSES]):
        values = maps_Khw[place].astype(np.float32)
        certain = "" if probabilities is None else f", probability {float(probabilities[place]):.2f}"
        caption = f"{about.name_of(class_id)}{certain}, largest {values.max(initial=0):.2f}, mean {values.mean():.2f}"
        pictures.append(Picture(caption, heat(about.image, values)))
    none = "" if len(classes) else "; no class, so no map"
    return Step(title, f"{_settings_in_words(instance)}{none}", pictures)


def _walk_pictures(instance: Instance, about: Explained) -> Iterator[Picture]:
    """The boundary map of each network, and the strongest score after 2^k steps of the walk."""
    stage, cams = instance.stage, about.records.get(instance.inputs["cams"].name if "cams" in instance.inputs else "")
    if not isinstance(stage, MakeScores) or "affinity" not in instance.inputs or not isinstance(cams, CamRecord):
        return
    if not len(cams.classes):
        return
    import torch

    from wsss.contract.device import worker_device
    from wsss.ops.seeds import exponent_scores

    networks = [instance.inputs[slot] for slot in stage.used_slots() if slot in NETWORKS]
    for affinity in networks:
        if cast(AffinityTraining, affinity.stage).network == "irnet":
            boundary = _boundary_map(affinity, about.image, long_side=stage.long_side, scales=stage.edge_scales)
            of = f" of {affinity.name}" if len(networks) > 1 else ""
            yield Picture(f"boundary map{of}, largest {boundary.max():.2f}", heat(about.image, boundary))
    planes_Lhw = torch.from_numpy(cams.maps).to(worker_device()).float()
    first = 0
    if stage.background_exponent is not None:
        planes_Lhw, first = exponent_scores(planes_Lhw, exponent=stage.background_exponent), 1
    for log2 in sorted({0, stage.num_steps_log2 // 3, 2 * stage.num_steps_log2 // 3, stage.num_steps_log2}):
        walk = stage.walk(instance, num_steps_log2=log2)
        with torch.inference_mode():
            walked_hw = walk([about.image], planes_Lhw[None])[0, first:].amax(0)
        largest = float(walked_hw.max().clamp_min(1e-12))
        caption = f"walk, 2^{log2} = {2**log2} steps, largest {largest:.2f} drawn as 1"
        yield Picture(caption, heat(about.image, (walked_hw / largest).cpu().numpy()))


def _boundary_map(affinity: Instance, image: np.ndarray, *, long_side: int, scales: Sequence[float]) -> np.ndarray:
    """f32[h, w], as the walk sees it."""
    import torch

    from wsss.contract.device import worker_device
    from wsss.data.images import resize_image, to_tensor
    from wsss.stages.affinity.walk import edge_probability, ready_network
    from wsss.stages.settings.views import walk_size

    trained: Any = affinity.stage
    network = ready_network(affinity)
    image_13HW = to_tensor(image, mean=trained.mean, std=trained.std)[None].to(worker_device())
    size = walk_size((image.shape[0], image.shape[1]), long_side=long_side)
    with torch.inference_mode():
        edge_hw = edge_probability(network, resize_image(image_13HW, size=size), scales=scales)[0]
    edge: np.ndarray = edge_hw.cpu().numpy()
    return edge


def _seed_step(title: str, instance: Instance, about: Explained, record: SeedRecord) -> Step:
    decided = record.label != ignore_of(record.label)
    parts = [f"{100 * decided.mean():.1f} % of the pixels are seeds"]
    truth = about.sample.mask
    counted = decided & (truth != ignore_of(truth)) if truth is not None and truth.shape == decided.shape else None
    if counted is not None and counted.any():
        right = (record.label == truth)[counted].mean()
        parts.append(f"{100 * right:.1f} % of them are correct")
    rows, columns = (
        np.arange(large) * small // large for large, small in zip(about.sample.size, record.label.shape, strict=True)
    )
    picture = Picture("seeds; undecided pixels are light", overlay(about.image, record.label[rows[:, None], columns]))
    return Step(title, f"{_settings_in_words(instance)}; {', '.join(parts)}", [picture])


def _label_step(title: str, instance: Instance, about: Explained, record: ConfidentLabel) -> Step:
    """Label maps: without the CRF and with it, by view, confidence, and errors."""
    stage, pictures = instance.stage, list[Picture]()
    if isinstance(stage, MakePseudoLabels) and isinstance(record, PseudoLabel):
        pictures += _threshold_pictures(stage, instance, about)
    if isinstance(stage, Predict):
        pictures += _view_pictures(stage, instance, about)
    refined = getattr(stage, "refine", "none") == "crf"
    name = "after the CRF" if refined else "label map"
    if pictures and refined:
        before = pictures[-1].pixels
        changed = (before != overlay(about.image, record.mask)).any(axis=2).mean()
        name += f", {100 * changed:.1f} % of the pixels changed"
    score = about.score(record.mask)
    pictures.append(Picture(", ".join(filter(None, [name, score])), overlay(about.image, record.mask)))
    confidence = record.confidence / 255
    mean = f"confidence, mean {confidence.mean():.2f}"
    pictures.append(Picture(mean, heat(about.image, confidence)))
    if about.sample.mask is not None:
        caption = "errors: red another class, blue missed, amber too much"
        pictures.append(Picture(caption, error_map(about.image, record.mask, truth=about.sample.mask)))
    return Step(title, _settings_in_words(instance), pictures)


def _threshold_pictures(stage: MakePseudoLabels, instance: Instance, about: Explained) -> Iterator[Picture]:
    """The labels that the scores and the background's score give before the CRF."""
    scores = about.records.get(instance.inputs["scores"].name)
    if stage.refine != "crf" or not isinstance(scores, CamRecord | ScoreRecord):
        return
    import torch

    with torch.inference_mode():
        label = replace(stage, refine="none", response_scales=()).pseudo_label(
            about.sample,
            scores,
            label_type(len(instance.taxonomy)),
            thresholds=stage.thresholds_by_id(instance.taxonomy),
        )
    words = {
        "threshold": _threshold_in_words(stage),
        "power": f"background: power {stage.background_exponent:g}",
        "propagated": "background propagated",
    }
    background = words[stage.background]
    caption = ", ".join(filter(None, [f"before the CRF, {background}", about.score(label.mask)]))
    yield Picture(caption, overlay(about.image, label.mask))


def _threshold_in_words(stage: MakePseudoLabels) -> str:
    if stage.image_threshold != "given":
        return f"background below the image's own threshold ({stage.image_threshold})"
    own = ", or below the thresholds of classes" if stage.class_thresholds else ""
    return f"background below {stage.background_threshold:g}{own}"


def _view_pictures(stage: Predict, instance: Instance, about: Explained) -> Iterator[Picture]:
    """The prediction of every scale alone, upright and with its mirror image, then of all views, without the CRF."""
    from wsss.contract.device import worker_device
    from wsss.contract.fit import load_trained
    from wsss.models.inference import for_inference
    from wsss.stages.segmenter.predictor import Predictor

    trained = instance.stage_in("segmenter", ImageSegmenterTraining)
    network = for_inference(load_trained(instance.inputs["segmenter"], device=worker_device()))
    prior = stage.prior(instance)
    sets: list[tuple[tuple[float, ...], bool]]
    sets = [((scale,), flip) for scale in stage.scales for flip in ((False, True) if stage.flip else (False,))]
    if len(sets) == 1:
        sets = []
    if stage.refine == "crf":
        sets.append((stage.scales, stage.flip))
    for scales, flip in sets:
        one = replace(stage, scales=scales, flip=flip, refine="none", ablation=())
        mask = Predictor(one, network, trained, prior=prior).prediction(about.sample).mask
        name = "all views" if scales == stage.scales and flip == stage.flip else f"scale {scales[0]:g}"
        name += " and mirrored" if flip and name.startswith("scale") else ""
        name += ", prior of all views" if prior is not None and name.startswith("scale") else ""
        name += ", before the CRF" if name == "all views" and stage.refine == "crf" else ""
        yield Picture(", ".join(filter(None, [name, about.score(mask)])), overlay(about.image, mask))


_UNSHOWN = ("splits", "max_shards", "batch_images", "ablation")


def _settings_in_words(instance: Instance) -> str:
    """The settings that can change the picture: those that differ from their default, and thresholds."""
    stage, shown = instance.stage, []
    defaults = {one.name: one.default for one in fields(stage)}
    for name, value in setting_values(stage).items():
        matters = name.endswith(("_threshold", "theta", "beta", "num_steps_log2", "refine", "method"))
        given = list(value) if isinstance(value, tuple) else value
        default = defaults.get(name)
        default = list(default) if isinstance(default, tuple) else default
        if (
            name not in (*_UNSHOWN, *inactive_settings(stage))
            and (matters or given != default)
            and given not in ("", None)
        ):
            shown.append(f"{name} = {given}")
    return ", ".join(shown) or "all settings at their defaults"
