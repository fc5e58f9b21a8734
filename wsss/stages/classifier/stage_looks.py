"""Maps of one batch of views from the features of a classifier: Region-CAM, self-similarity and LPCAM.

Shape letters: `V` views, `C` classes, `K` classes of a view, `D` channels, `h w` pixels of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from wsss.ops.cam import class_activation_map
from wsss.ops.prototype_cam import prototype_cam
from wsss.ops.region_cam import region_cam, semantic_information
from wsss.ops.self_similarity import self_similarity_cam

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier

Look = Callable[[torch.Tensor, Sequence[Sequence[int]]], tuple[list[torch.Tensor], torch.Tensor]]
"""(views f32[V, 3, H, W], classes of each) -> maps f32[K, h, w] of each, at least 0; logits f32[V, C]."""


def region_look(network: Classifier, *, finest_stride: int) -> Look:
    """Region-CAM's maps; the layer that the head reads has its class activation map as evidence."""
    from wsss.models.stage_gradients import StageGradients

    gradients_of = StageGradients(network, finest_stride=finest_stride)

    def look(views_V3HW: torch.Tensor, classes: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
        last, stages, gradients, logits_VC = gradients_of(views_V3HW, classes=classes)
        # One class's gradients at a time: they are as large as the features.
        found = [[semantic_information(of_stage) for of_stage in of_class] for of_class in gradients]
        maps = []
        for view, present in enumerate(classes):
            features = [*(of_stage[view] for of_stage in stages), last[view]]
            evidence = [_of_view(found, stage, view, len(present), like=f) for stage, f in enumerate(features[:-1])]
            cam = class_activation_map(last[view], weights_CD=network.cam_weights, classes=present)
            maps.append(region_cam(features, evidence=[*evidence, cam]))
        return maps, logits_VC

    return look


def _of_view(
    found: list[list[torch.Tensor]], stage: int, view: int, num_classes: int, *, like: torch.Tensor
) -> torch.Tensor:
    """[K,h,w]: the evidence for one view's classes in one stage, from that of all views."""
    if not num_classes:
        return like.new_zeros((0, *like.shape[1:]))
    return torch.stack([found[k][stage][view] for k in range(num_classes)])


def self_similarity_look(network: Classifier, *, finest_stride: int) -> Look:
    """Class activation maps multiplied by the self-similarity of every stage."""

    def look(views_V3HW: torch.Tensor, classes: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
        last, stages = network.stages(views_V3HW, finest_stride=finest_stride)
        maps = []
        for view, present in enumerate(classes):
            cam = class_activation_map(last[view], weights_CD=network.cam_weights, classes=present)
            maps.append(self_similarity_cam(cam, features=[*(of_stage[view] for of_stage in stages), last[view]]))
        return maps, network.logits(last)

    return look


def prototype_look(network: Classifier, *, directions: Mapping[int, torch.Tensor]) -> Look:
    """LPCAM's maps. `directions`: class id -> the vector [D] of `wsss.ops.prototype_cam.prototype_direction`; a class
    that has none gets maps of zeros.

    Source: Chen and Sun, CVPR 2023 (LPCAM), public code.  Differs: it adds the features of a view and its mirror image
    before the cosine; here their maps are added, as those of every other method.
    """

    def look(views_V3HW: torch.Tensor, classes: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], torch.Tensor]:
        features_VDhw = network.features(views_V3HW)
        nothing_D = features_VDhw.new_zeros(features_VDhw.shape[1])
        maps = []
        for features_Dhw, present in zip(features_VDhw, classes, strict=True):
            vectors = [directions.get(class_id, nothing_D) for class_id in present]
            directions_KD = torch.stack(vectors) if vectors else nothing_D.new_zeros((0, len(nothing_D)))
            maps.append(prototype_cam(features_Dhw, directions_KD=directions_KD))
        return maps, network.logits(features_VDhw)

    return look
