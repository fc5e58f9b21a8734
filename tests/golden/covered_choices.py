"""Which choices of which settings the cases cover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.golden.packages import Run

ONCE_FOR_ALL_TRAININGS = frozenset(
    {"optimizer", "schedule", "zero_stage", "precision", "keep"}
    | {"output_stride", "dilated", "pad_type", "reparameterised", "norm", "frozen_stride"}
)
"""Settings of the one training loop and of the one encoder: a case of any training covers them."""
RETIRED: Mapping[str, str] = {
    "ilsvrc_unchecked_absent": "the setting is one of the stages that read labels: the cases named *_unchecked_*",
}
"""Recorded cases that are no longer run, because their setting moved to other stages -> what covers it now."""
NOT_COVERED: Mapping[tuple[str, str, Any], str] = {
    ("train_ancillary", "network", "largefov"): "the stage refuses it",
    ("train_ancillary", "network", "aspp"): "the stage refuses it",
    ("train_affinity", "levels", "conv4_conv5_conv6"): "would train ResNet-38, which has 105 million weights",
    ("evaluate", "list_use", "only"): "needs a list of keys; both are in tests/wsss/stages/evaluation",
    ("evaluate", "list_use", "except"): "needs a list of keys; both are in tests/wsss/stages/evaluation",
}
"""(kind, setting, choice) -> why no case has it."""


def covered(run: Run) -> set[tuple[str, str, Any]]:
    """(kind, setting, choice) of every case, where its other settings let the setting be read."""
    found: set[tuple[str, str, Any]] = set()
    for case in run.cases.values():
        for setting, choices in run.choices[case.kind].items():
            if setting in case.unread:
                continue
            value = case.settings[setting]
            for chosen in value if isinstance(value, list) else [value]:
                found.update((case.kind, setting, choice) for choice in choices if _same(choice, chosen))
    return found


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def uncovered(run: Run) -> Iterator[tuple[str, str, Any]]:
    """(kind, setting, choice) that no case covers, those of NOT_COVERED among them."""
    found = covered(run)
    of_trainings = {(setting, choice) for kind, setting, choice in found if kind.startswith("train_")}
    for kind, settings in run.choices.items():
        for setting, choices in settings.items():
            for choice in choices:
                shared = kind.startswith("train_") and setting in ONCE_FOR_ALL_TRAININGS
                if (kind, setting, choice) in found or (shared and (setting, choice) in of_trainings):
                    continue
                yield kind, setting, choice
