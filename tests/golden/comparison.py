"""Where two results of one case differ: byte by byte, or by more than their tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.golden.entries import STABLE_KINDS, Entry, environment_id
from tests.golden.packages import Case, Run
from tests.golden.results import Values

_TOLD = 6


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may lie apart that were computed on two CPUs."""

    amount: float
    """Of arrays and weights, as a share of the largest number that the name holds, and of a norm."""
    label: float
    """Of shares of pixels with a label."""
    figure: float
    """Of figures of the run record."""


EXACT = Tolerance(amount=0.0, label=0.0, figure=0.0)
USUAL = Tolerance(amount=5e-3, label=0.02, figure=0.02)
"""Twice what reduced instruction sets were seen to change; README.md has the figures."""
ROUGH = Tolerance(amount=0.05, label=0.05, figure=0.1)
ROUGH_CASES = {
    "classifier_bf16": "bfloat16 keeps 8 bits",
    "classifier_repvgg_reparameterised": "random fused weights end in huge activations, so ranks of images flip",
    "labels_response_scales": "a decision that flips changes the confidence of a cell by up to 255",
    "segmenter_dsrg": "one seed pixel more is a large share of a grid of 8 x 8",
    "segmenter_dsrg_semi": "one seed pixel more is a large share of a grid of 8 x 8",
}
"""Cases that another CPU changes more, with the reason."""


def tolerance_of(case: str) -> Tolerance:
    """What a case is allowed on another CPU than the one its entry was made on."""
    return ROUGH if case in ROUGH_CASES else USUAL


def value_differences(before: Values, after: Values, *, tolerance: Tolerance) -> list[str]:
    """What differs by more than the tolerance, in words. A figure that only `after` has was added."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        group = name.partition("/")[0]
        if name not in after or (name not in before and group not in ("metric", "table", "labels")):
            found.append(f"{name} is only there {'before' if name in before else 'after'}")
            continue
        if name not in before and group != "labels":
            continue
        old, new = before.get(name), after.get(name)
        old, new = old or [0.0] * len(new or ()), new or [0.0] * len(old or ())
        apart = _apart(old, new)
        if apart > _allowed(group, old, tolerance):
            found.append(f"{name}: {old} before, {new} after")
    return found


def _apart(old: list[float], new: list[float]) -> float:
    if len(old) != len(new):
        return float("inf")
    pairs = zip(old, new, strict=True)
    return max((abs(a - b) if a == a and b == b else float((a == a) != (b == b)) for a, b in pairs), default=0.0)


def _allowed(group: str, old: list[float], tolerance: Tolerance) -> float:
    if group == "labels":
        return tolerance.label
    if group in ("metric", "table"):
        return tolerance.figure * max(1.0, *(abs(number) for number in old))
    return tolerance.amount * max((abs(number) for number in old), default=0.0)


def against_entry(entry: Entry, case: Case, run: Run) -> str:
    """Empty where a case gives what its entry says; else what differs and how it was compared."""
    assert case.result is not None
    same_machine = environment_id(run.versions) == entry.environment
    found = []
    if entry.kind in STABLE_KINDS and entry.content != case.result.content:
        found.append(f"the records differ: content {case.result.content}, {entry.content} in the entry")
    if same_machine and entry.digest != case.result.digest:
        found.append(f"the bytes differ: digest {case.result.digest}, {entry.digest} in the entry")
    tolerance = EXACT if same_machine else tolerance_of(entry.case)
    found += value_differences(entry.values, case.result.values, tolerance=tolerance)
    how = "exactly, the entry is of an equal CPU and equal libraries" if same_machine else f"within {tolerance}"
    return _reported(found, how)


def between_packages(before: Case, after: Case) -> str:
    """Empty where two packages gave the same on this machine; else what differs."""
    if before.result is None or after.result is None:
        return "" if before.failure and after.failure else f"failed:\n{before.failure or after.failure}"
    found = [] if before.result.digest == after.result.digest else ["the bytes differ"]
    found += value_differences(before.result.values, after.result.values, tolerance=EXACT)
    return _reported(found, "exactly, both ran on this machine")


def _reported(found: list[str], how: str) -> str:
    more = [f"and {len(found) - _TOLD} more"] if len(found) > _TOLD else []
    return "\n  ".join([f"compared {how}:", *found[:_TOLD], *more]) if found else ""


def summary(differences: Mapping[str, str]) -> str:
    """All cases that differ, with what differs."""
    return "\n".join(f"{name}: {text}" for name, text in differences.items() if text)
