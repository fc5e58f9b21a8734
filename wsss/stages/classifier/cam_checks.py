"""Which settings of activation maps do not fit each other."""

from __future__ import annotations

import math

from wsss.contract.stage import Instance
from wsss.stages.classifier.cam_settings import GRADIENT_METHODS, LAST_LAYER, STAGE_METHODS, CamSettings
from wsss.stages.classifier.training import ClassifierTraining


def check_maps(settings: CamSettings, *, name: str) -> None:
    """Raise ValueError, for an instance of that name, where one setting makes another one meaningless."""
    if settings.target_layer != LAST_LAYER and settings.method not in GRADIENT_METHODS:
        reads = "every stage of the encoder" if settings.method in STAGE_METHODS else "the last layer"
        raise ValueError(
            f"{name}.target_layer = {settings.target_layer!r} is only for {', '.join(GRADIENT_METHODS)}; "
            f"method = {settings.method!r} reads {reads}, so remove target_layer"
        )
    for setting in ("square_root", "flatten", "relative_to_others"):
        if getattr(settings, setting) and settings.method == "stochastic":
            raise ValueError(
                f"{name}.{setting} = {_toml(getattr(settings, setting))} cannot be used with method = 'stochastic', "
                f"whose maps are stored as they are; remove {setting}"
            )
    if settings.normalisation == "global" and settings.method in ("stochastic", *STAGE_METHODS):
        raise ValueError(
            f"{name}.normalisation = 'global' cannot be used with method = {settings.method!r}: each of its maps "
            "is divided by its own maximum before they are averaged; remove normalisation"
        )
    _check_flatten(settings, name)


def check_prototypes(settings: CamSettings, instance: Instance) -> None:
    """Raise ValueError if an instance with method = "lpcam" reads several networks, or prototypes of another one."""
    classifier, prototypes = (instance.inputs[slot] for slot in ("classifier", "prototypes"))
    if "second_classifier" in instance.inputs:
        raise ValueError(
            f"{instance.name}.method = {settings.method!r} has the prototypes of one classifier, so it cannot be used "
            "with second_classifier = true; make the maps of both by another method"
        )
    if instance.stage_in("classifier", ClassifierTraining).folds > 1:
        raise ValueError(
            f"{instance.name}.method = {settings.method!r} has the prototypes of one network, but {classifier.name} is "
            "one of a cross-fitting; choose another method, or name a classifier without folds in inputs.classifier"
        )
    of = prototypes.inputs["classifier"]
    if of.fingerprint != classifier.fingerprint:
        raise ValueError(
            f"{instance.name}.inputs: {prototypes.name} has the prototypes of {of.name}, but classifier is "
            f"{classifier.name}; name the same classifier in both"
        )


def _check_flatten(settings: CamSettings, name: str) -> None:
    # wsss.ops.flatten_peaks.largest_scale, without torch: recipes are checked without it.
    limit = 2 * math.sqrt(settings.flatten_above) / (1 - settings.flatten_above)
    if settings.flatten >= limit:
        raise ValueError(
            f"{name}.flatten = {settings.flatten} with flatten_above = {settings.flatten_above}; allowed: 0 (off) or "
            f"more, below {limit:.4g}: from there on, the exponent of a map with high peaks could be 0 or negative. "
            "Set a smaller flatten or a larger flatten_above"
        )


def _toml(value: object) -> str:
    return str(value).lower()
