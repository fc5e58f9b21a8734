"""What a classifier predicts on its validation images, measured."""

from __future__ import annotations

import numpy as np

from wsss.contract.fit import Validation
from wsss.contract.stage import Instance, Outcome
from wsss.models.classifier import Classifier
from wsss.stages.classifier.classification_metrics import classification_metrics
from wsss.stages.classifier.hold_out import validation_samples
from wsss.stages.classifier.labelled_images import predicted_labels
from wsss.stages.classifier.training import ClassifierTraining


def measured(network: Classifier, stage: ClassifierTraining, instance: Instance) -> Validation:
    """F1 and average precision of every learned class on the validation split, and their means.

    Raises ValueError if no validation image can be read.
    """
    taxonomy, learned = instance.taxonomy, stage.learned(instance)
    scores_NC, truth_NC, known_NC = predicted_labels(
        network,
        stage,
        validation_samples(stage, instance),
        num_classes=len(taxonomy),
        device=network.cam_weights.device,
    )
    if len(scores_NC) == 0:
        raise ValueError(f"{instance.name}.validation_split = {stage.validation_split!r} has no readable image")
    columns = [c - 1 for c in learned]
    precision_C, f1_C, micro = classification_metrics(
        scores_NC[:, columns], truth_NC=truth_NC[:, columns], known_NC=known_NC[:, columns]
    )
    highest_C = scores_NC[:, columns].max(axis=0, where=known_NC[:, columns], initial=0.0)
    rows: list[dict[str, object]] = [
        {
            "class": taxonomy.name_of(c),
            "average_precision": _number(ap),
            "f1": _number(f1),
            "images": int(truth_NC[:, c - 1].sum()),
            "highest_probability": float(highest),
        }
        for c, highest, ap, f1 in zip(learned, highest_C, precision_C, f1_C, strict=True)
    ]
    metrics = {
        "val.mean_average_precision": float(np.nanmean(precision_C)),
        "val.f1_macro": float(np.nanmean(f1_C)),
        "val.f1_micro": micro,
    }
    return Validation(metrics["val.mean_average_precision"], Outcome(metrics=metrics, tables={"per_class": rows}))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
