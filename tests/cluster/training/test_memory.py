from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from cluster.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2_000_000 + 1000 * i) for i in range(30)]  # like activations: allocated together, freed together
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

supported = keep_freed_memory() if sys.argv[1] == "keep" else True
print(supported, sum([faults() for _ in range(5)][2:]))
"""


def page_faults(mode: str) -> int:
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, timeout=120
    ).stdout.split()
    assert printed[0] == "True"
    return int(printed[1])


@pytest.mark.slow
def test_freed_memory_is_reused_without_page_faults() -> None:
    assert page_faults("keep") < page_faults("leave") / 4
