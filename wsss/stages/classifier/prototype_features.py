"""The features that `make_prototypes` clusters: of which images, at which positions.

Shape letters: `N` features, `D` channels, `K` classes present, `H W` pixels, `h w` strided pixels.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from shards.layer import Layer, split_of
from shards.records import CamRecord, Sample
from wsss.contract.counts import Counts
from wsss.data.images import resize_image, to_tensor
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.patch_maps import to_patches
from wsss.stages.classifier.prototype_settings import PrototypeSettings
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.settings.views import classifier_views

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

OBJECT, CONTEXT = 0, 1
"""Values of the rows `roles`: a feature of a class, or of what is seen with it."""
_LARGEST = torch.finfo(torch.float16).max


def drawn_number(text: str) -> int:
    """A number from 0 to 2^63 - 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def chosen_images(
    samples: Layer, cams: Layer, *, splits: Collection[str], learned: Collection[int], images_per_class: int, seed: int
) -> dict[str, dict[str, list[int]]]:
    """Shard -> key -> the classes for which features of this image are clustered.

    Of each learned class, the `images_per_class` labelled images with maps whose numbers, drawn from seed and key, are
    smallest: a function of the two manifests alone.
    """
    ranked: dict[int, list[tuple[int, str, str]]] = {class_id: [] for class_id in sorted(learned)}
    for shard in cams.shards():
        if split_of(shard) not in splits:
            continue
        with_maps, entries = set(cams.manifest_entry(shard).entries.keys), samples.manifest_entry(shard).entries
        for key, present in zip(entries.keys, entries.metadata("classes"), strict=True):
            if key in with_maps:
                number = drawn_number(f"prototypes {seed} {key}")
                for class_id in ranked.keys() & set(present or ()):
                    ranked[class_id].append((number, shard, key))
    chosen: dict[str, dict[str, list[int]]] = {}
    for class_id, images in ranked.items():
        for _, shard, key in heapq.nsmallest(images_per_class, images):
            chosen.setdefault(shard, {}).setdefault(key, []).append(class_id)
    return chosen


class FeatureReader:
    """Features of a classifier at drawn positions of an image; they depend on the image, its maps and the seed."""

    def __init__(
        self, stage: PrototypeSettings, network: Classifier, trained: ClassifierTraining, *, seed: int
    ) -> None:
        self._stage, self._network, self._trained, self._seed = stage, network, trained, seed

    @torch.inference_mode()
    def rows(self, sample: Sample, cams: CamRecord, *, classes: Sequence[int]) -> list[Mapping[str, np.ndarray]]:
        """The rows of one image: of each class that has a map, up to `positions_per_image` features of its own, and as
        many of its context."""
        features_Dhw, high_Khw, low_Khw = self._seen(sample, cams)
        features_ND, found = features_Dhw.flatten(1).T, cams.classes.tolist()
        rows: list[Mapping[str, np.ndarray]] = []
        for class_id in (c for c in classes if c in found):
            for role, where_Khw in ((OBJECT, high_Khw), (CONTEXT, low_Khw)):
                places = torch.nonzero(where_Khw[found.index(class_id)].flatten())[:, 0]
                drawn = self._drawn(places, f"{self._seed} {sample.key} {class_id} {role}")
                rows.append(_rows(sample.key, class_id, role, drawn, features_ND[drawn]))
        return rows

    def _seen(self, sample: Sample, cams: CamRecord) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features [D,h,w] of the image, and where its maps are high and low, bool[K,h,w] each."""
        device, stage = self._network.cam_weights.device, self._stage
        x_3HW = to_tensor(sample.image, mean=self._trained.mean, std=self._trained.std, device=device)
        (size,) = classifier_views(sample.size, scales=(1.0,), long_side=stage.long_side, max_side=stage.max_side)
        features_Dhw = self._network.features(resize_image(x_3HW[None], size=size))[0].cpu()
        grid = (features_Dhw.shape[1], features_Dhw.shape[2])
        maps_Khw, inside_hw = torch.from_numpy(cams.maps).float(), torch.ones(grid, dtype=torch.bool)
        encoder = self._network.encoder
        if len(maps_Khw) and encoder.tiles_image:
            maps_Khw, inside_hw = to_patches(maps_Khw, patch=encoder.pyramid_strides[-1], view=size, size=grid)
        elif len(maps_Khw):
            maps_Khw = resize_bilinear(maps_Khw, size=grid)
        threshold = stage.foreground_threshold
        return features_Dhw, (maps_Khw > threshold) & inside_hw, (maps_Khw < threshold) & inside_hw

    def _drawn(self, places: torch.Tensor, key: str) -> torch.Tensor:
        """Up to `positions_per_image` of the places, ascending, drawn by the key without replacement."""
        generator = torch.Generator().manual_seed(drawn_number(key))
        order = torch.randperm(len(places), generator=generator)[: self._stage.positions_per_image]
        return places[order].sort().values


def _rows(key: str, class_id: int, role: int, places: torch.Tensor, features_ND: torch.Tensor) -> dict[str, np.ndarray]:
    number = len(places)
    return {
        "keys": np.full(number, drawn_number(key), np.int64),
        "classes": np.full(number, class_id, np.int32),
        "roles": np.full(number, role, np.int8),
        "places": places.numpy().astype(np.int32),
        "features": features_ND.clamp(-_LARGEST, _LARGEST).half().numpy(),
    }


def counted(rows: Sequence[Mapping[str, np.ndarray]]) -> Counts:
    """The rows of several images as the counts of a shard."""
    if not rows:
        return Counts()
    return Counts(rows={name: np.concatenate([one[name] for one in rows]) for name in rows[0]})
