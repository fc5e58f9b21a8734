"""The file of class prototypes: written by make_prototypes, read by make_cams.

`prototypes` f32[M, D] and `prototype_classes` i64[M]: vectors, and the class id of each; `contexts` and
`context_classes`: the same for context prototypes. Classes are ascending.

Shape letters: `D` channels, `M` vectors of all classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from shards.files import write_bytes
from wsss.contract.fit import is_whole
from wsss.contract.stage import Instance
from wsss.ops.prototype_cam import prototype_direction
from wsss.stages.classifier.prototype_clusters import ClassPrototypes
from wsss.stages.classifier.prototype_settings import prototypes_path


def write_prototypes(path: Path, found: Mapping[int, ClassPrototypes]) -> None:
    """Write the prototypes of all classes; `found`: class id -> what it has."""
    tensors: dict[str, Tensor] = {}
    for name, of_class in (
        ("prototype", {c: one.prototypes for c, one in found.items()}),
        ("context", {c: one.contexts for c, one in found.items()}),
    ):
        tensors[f"{name}s"] = torch.cat([of_class[c] for c in sorted(of_class)]).contiguous()
        numbers = [c for c in sorted(of_class) for _ in range(len(of_class[c]))]
        tensors[f"{name}_classes"] = torch.tensor(numbers, dtype=torch.int64)
    write_bytes(path, save(tensors), what="the prototypes of all classes")


def load_directions(instance: Instance, *, device: torch.device | str = "cpu") -> dict[int, Tensor]:
    """Class id -> the vector [D] of `wsss.ops.prototype_cam.prototype_direction`, for the classes with a prototype.

    `instance`: a finished make_prototypes. Raises ValueError if its file is damaged.
    """
    path = prototypes_path(instance)
    if not is_whole(path):
        raise ValueError(f"{path} is damaged; delete it, so that {instance.name} computes it again")
    tensors = load_file(path)
    of_prototypes, of_contexts = tensors["prototype_classes"], tensors["context_classes"]
    return {
        class_id: prototype_direction(
            tensors["prototypes"][of_prototypes == class_id],
            contexts_QD=tensors["contexts"][of_contexts == class_id],
        ).to(device)
        for class_id in of_prototypes.unique().tolist()
    }
