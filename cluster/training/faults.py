"""Unreadable training examples: they are replaced, recorded and counted, and too many of them stop the training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch.distributed as dist

from shards.file_system_errors import writing
from shards.layer import ShardError
from shards.records import BadSampleError
from shards.work_notes import name_work, note
from wsss.contract.fit import Draw, TrainingSet

FAULT = "fault"
_LONGEST_SEARCH = 64
_NUM_NAMED_CAUSES = 5


class TooManyFaultsError(RuntimeError):
    """More examples than the settings allow cannot be read."""


def readable_example(examples: TrainingSet, draw: Draw) -> dict[str, Any]:
    """The example of a draw, or the next readable one by index. Its entry `fault` describes the error, or is "".

    The replacement depends only on the draw, so that it is the same for any world size.
    Raises: TooManyFaultsError if many examples in a row cannot be read.
    """
    fault = ""
    for number in range(min(_LONGEST_SEARCH, len(examples))):
        index = (draw.index + number) % len(examples)
        note(sample=examples.name_of(index))
        try:
            example = examples.example(Draw(index, draw.epoch, draw.occurrence))
        except (BadSampleError, ShardError) as error:
            fault = fault or f"{examples.name_of(draw.index)}: {error}"
        except Exception as error:
            name_work(error, sample=examples.name_of(index))
            raise
        else:
            return {**example, FAULT: fault}
    raise TooManyFaultsError(f"none of {number + 1} examples in a row can be read; the first is {fault}")


@dataclass(frozen=True)
class FaultLog:
    """One rank's text file of unreadable examples. Each line has the epoch, step, example and cause."""

    path: Path

    @classmethod
    def of(cls, folder: Path, *, rank: int) -> FaultLog:
        return cls(folder / f"faults.rank-{rank}.txt")

    def add(self, faults: Sequence[str], *, epoch: int, step: int) -> None:
        """Append a step's faults. A training that resumes from a checkpoint lists the faults after it a second time."""
        if faults:
            with writing(self.path, what="examples that cannot be read"), self.path.open("a") as file:
                file.writelines(f"epoch {epoch + 1}, step {step}: {' '.join(fault.split())}\n" for fault in faults)

    def texts(self) -> list[str]:
        """Example and cause of each line in the file."""
        if not self.path.exists():
            return []
        return [line.rstrip("\n").partition(": ")[2] for line in self.path.open()]


def stop_for_faults(log: FaultLog, *, name: str, count: int, allowed: int, epoch: int) -> None:
    """Raise on all ranks together; the message counts the faults by cause, and has the first example of each."""
    gathered: list[list[str]] = [[]] * dist.get_world_size()
    dist.all_gather_object(gathered, log.texts())
    first: dict[str, str] = {}
    causes: Counter[str] = Counter()
    for text in chain.from_iterable(gathered):
        example, _, cause = text.rpartition(": ")
        first.setdefault(cause, example)
        causes[cause] += 1
    most = causes.most_common(_NUM_NAMED_CAUSES)
    by_cause = "; ".join(f"{number} x {cause} (the first: {first[cause]})" for cause, number in most)
    raise TooManyFaultsError(
        f"{name}: {count} examples of epoch {epoch + 1} cannot be read, max_unreadable allows {allowed}: {by_cause}. "
        f"All are listed in {log.path.parent}/faults.rank-*.txt; fix or remove these examples, or raise max_unreadable"
    )
