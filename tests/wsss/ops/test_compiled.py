from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

CODE = """
import numpy as np, sys
from wsss.ops import compiled_lattice, compiled_mean_field as field
energy = np.zeros((1, 2, 6), np.float32)
kernels = [(compiled_lattice.pixel_lattice(np.zeros((2, 3, c), np.uint8), sxy=1.0, srgb=1.0), 1.0) for c in (3, 0)]
print(field.mean_field(energy, kernels=kernels, num_iterations=1)[0, 0, 0])
loops = [field.pass_for(1, 2), compiled_lattice._find_vertices, compiled_lattice._find_neighbours]
found = [sum(one.stats.cache_hits.values()) for one in loops]
made = [sum(one.stats.cache_misses.values()) for one in loops]
print(sum(found), sum(made))
"""


def lines(folder: Path, code: str = CODE) -> list[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
def test_loops_are_compiled_once_per_machine(tmp_path: Path) -> None:
    """The second process finds the code of the first one."""
    assert lines(tmp_path) == ["0.5", "0 3"]
    assert lines(tmp_path) == ["0.5", "3 0"]


ASSEMBLY = """
import re
from wsss.ops import compiled_ahead, compiled_lattice, compiled_mean_field as field
compiled_ahead.compile_ahead()
loops = [field.pass_for(2, 3), field.pass_for(6, 4), compiled_lattice.blur_for(1), field._exp]
texts = [text for one in loops for text in one.inspect_asm().values()]
products = [re.search(r"mul[sp]s", text) for text in texts]
print(len(texts), sum("vfm" in text or "vfnm" in text for text in texts), sum(map(bool, products)))
"""


@pytest.mark.slow
def test_no_loop_has_a_fused_multiply_add(tmp_path: Path) -> None:
    """A fused operation rounds once where two round twice: results would depend on the CPU."""
    # Numba shows no assembly of code that it found on the disk.
    number, fused, plain = (int(word) for word in lines(tmp_path, ASSEMBLY)[0].split())
    assert number == plain >= 4
    assert fused == 0
