"""Everything that only a GPU can show, as one table: python -m tests.gpu.report

Needs one GPU and at most 8 minutes; exit status 0 if every check holds, 1 if one does not, 2 (and NOT RUN) without a
GPU. Copy the table into tests/gpu/README.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from tests.gpu.checks import CHECKS, Place, Seen

MOST_SECONDS = 450.0
"""After this no further check begins, so that the whole takes at most 8 minutes."""


def rows(
    place: Place,
    checks: Mapping[str, Callable[[Place], Seen]],
    *,
    most_seconds: float = MOST_SECONDS,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[str, str, float, str]]:
    """(check, what was seen, seconds, `ok`, `FAILED` or `NOT RUN`), one after another."""
    begun = now()
    for number, (name, check) in enumerate(checks.items()):
        started = now()
        if started - begun > most_seconds:
            yield name, "no time left", 0.0, "NOT RUN"
            continue
        try:
            seen = check(Place(place.device, place.folder / str(number), place.large, place.cpus))
        except Exception as error:  # the other checks are run all the same
            traceback.print_exc()
            seen = Seen(False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        yield name, seen.text, now() - started, "ok" if seen.ok else "FAILED"


def main() -> int:
    if not torch.cuda.is_available():
        print("NOT RUN: no GPU")
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} CPUs\n")
    print("| check | seen | seconds | |\n|---|---|---:|---|")
    states = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place("cuda", Path(folder), large=True, cpus=min(8, os.cpu_count() or 1))
        for name, text, seconds, state in rows(place, CHECKS):
            print(f"| {name} | {text} | {seconds:.0f} | {state} |", flush=True)
            states.append(state)
    return int("FAILED" in states)


if __name__ == "__main__":
    sys.exit(main())
