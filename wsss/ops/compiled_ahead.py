"""`python -m wsss.ops.compiled_ahead`: compile the loops of `wsss.ops.compiled` before they are needed."""

from __future__ import annotations

import numpy as np

from wsss.ops import compiled_philox
from wsss.ops.compiled_lattice import pixel_lattice
from wsss.ops.compiled_mean_field import mean_field


def compile_ahead() -> None:
    """The dense CRF for one to three labels besides background, with one label map and with two; stochastic masks."""
    lattices = [pixel_lattice(np.zeros((2, 3, colours), np.uint8), sxy=1.0, srgb=1.0) for colours in (3, 0)]
    for num_unaries in (1, 2):
        for num_labels in (2, 3, 4):
            energy_BKN = np.zeros((num_unaries, num_labels, 6), np.float32)
            mean_field(energy_BKN, kernels=[(lattice, 1.0) for lattice in lattices], num_iterations=1)
    compiled_philox.kept_planes(1, key=(0, 0), first=0, num_samples=1, bits=1, least=1)


if __name__ == "__main__":
    compile_ahead()
