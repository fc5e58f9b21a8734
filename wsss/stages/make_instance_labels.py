"""make_instance_labels: from activation maps and IRNet, a map of instances, each with its class and its score.

Semantic labels need only IRNet's boundaries (make_scores); only this stage computes the displacement field.

Shape letters: `K` classes present, `H W` pixels, `h w` the stride-4 grid, `I` instances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import numpy as np
from pydantic import Field

from shards.records import CamRecord, InstanceLabel, Missing, Record, Sample
from wsss.contract.cost import Load, PlanContext, ShardWork
from wsss.contract.device import on_device, worker_device
from wsss.contract.fit import load_trained
from wsss.contract.settings import settings
from wsss.contract.shard_workers import work_per_record
from wsss.contract.slots import Records, Slot, Trained
from wsss.contract.stage import Instance, Map, ShardWorker
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.settings.trained_sizes import Views, outside_notes

if TYPE_CHECKING:
    import torch

    from wsss.models.irnet import IRNet
    from wsss.ops.instances import Instances


@settings
class MakeInstanceLabels(Map):
    """Separate objects of one class with IRNet's displacement field: find centroids, then walk per instance."""

    kind: ClassVar[str] = "make_instance_labels"
    revision: ClassVar[int] = 3
    record_kind: ClassVar[str] = InstanceLabel.kind
    aligned_with: ClassVar[str] = "cams"
    slots: ClassVar[dict[str, Slot]] = {
        "samples": Records((Sample,)),
        "cams": Records((CamRecord,)),
        "affinity": Trained(AffinityTraining),
    }

    num_refinements: Annotated[int, Field(ge=0)] = 300
    """Number of steps for which the displacement field is followed; it stops earlier if a step moves nothing."""
    centroid_threshold: Annotated[float, Field(gt=0)] = 2.5
    """Connected pixels whose displacement is shorter than this form a centroid, in pixels of the stride-4 grid."""
    radius: Annotated[int, Field(ge=2)] = 5
    """A step of the random walk reaches pixels nearer than this, in pixels of the stride-4 grid."""
    beta: Annotated[float, Field(gt=0)] = 10.0
    """Exponent of the affinities: larger values make boundaries harder to cross."""
    num_steps_log2: Annotated[int, Field(ge=0, le=16)] = 8
    """The random walk takes 2 ** this many steps."""
    background_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Pixels whose scores all stay below this belong to no instance."""
    min_area: Annotated[float, Field(ge=1e-4, le=1)] = 0.01
    """Connected components smaller than this share of the image are not instances."""

    def check(self, instance: Instance) -> None:
        affinity = instance.inputs["affinity"]
        network = instance.stage_in("affinity", AffinityTraining).network
        if network != "irnet":
            raise ValueError(
                f"{instance.name} needs IRNet's displacement field, which {affinity.name}.network = {network!r} does "
                f'not have; set {affinity.name}.network = "irnet", or name another training in '
                f"{instance.name}.inputs.affinity"
            )

    def cautions(self, instance: Instance) -> list[str]:
        return outside_notes(instance, instance.inputs["affinity"], Views(resized_by=""), splits=self.splits)

    def cost(self, instance: Instance, context: PlanContext) -> ShardWork:
        """IRNet's boundaries and displacements, followed to centroids; a random walk per instance."""
        network, stats = context.network("affinity"), context.stats
        flops = sum(network.forward(stats.size, method=method) for method in ("forward", "edge_logits"))
        load = Load(core={"decode_image": stats.megapixels})
        load += Load(flops=flops, passes=2, arrays={"instances": stats.meganodes})
        return context.map_work(load * stats.labelled_share, has_network=True)

    def worker(self, instance: Instance) -> ShardWorker:
        import torch

        from wsss.models.inference import for_inference

        layers = {slot: instance.inputs[slot].layer for slot in ("samples", "cams")}
        affinity = instance.stage_in("affinity", AffinityTraining)
        network = for_inference(load_trained(instance.inputs["affinity"], device=worker_device()))

        def make(joined: Mapping[str, Record]) -> InstanceLabel:
            sample, cams = cast(Sample, joined["samples"]), cast(CamRecord, joined["cams"])
            with torch.inference_mode():
                return self._instance_label(sample, cams, network, affinity)

        return work_per_record(layers, make, leave_out=_with_unknown_classes)

    def _instance_label(
        self, sample: Sample, cams: CamRecord, network: IRNet, trained: AffinityTraining
    ) -> InstanceLabel:
        import torch

        from wsss.data.images import to_tensor

        if len(cams.classes) == 0:
            map_HW, no_scores = np.zeros(sample.size, np.uint16), np.zeros(0, np.float16)
            return InstanceLabel(key=sample.key, instances=map_HW, classes=cams.classes, scores=no_scores)
        device = next(network.parameters()).device
        image_13HW = to_tensor(sample.image, mean=trained.mean, std=trained.std, device=device)[None]
        found = self._instances(on_device(torch.from_numpy(cams.maps), device).float(), image_13HW, network)
        return InstanceLabel(
            key=sample.key,
            instances=found.map.cpu().numpy().astype(np.uint16),
            classes=cams.classes[found.classes.cpu().numpy()],
            scores=found.scores.half().cpu().numpy(),
        )

    def _instances(self, maps_Khw: torch.Tensor, image_13HW: torch.Tensor, network: IRNet) -> Instances:
        from wsss.ops.instances import cut_instances, displacement_groups, group_walk

        height, width = image_13HW.shape[-2:]
        edge_hw, displacement_12hw = boundary_and_displacement(network, image_13HW)
        groups_1hw = displacement_groups(
            displacement_12hw, centroid_threshold=self.centroid_threshold, num_steps=self.num_refinements
        )
        walked = group_walk(
            maps_Khw,
            groups_hw=groups_1hw[0],
            edge_hw=edge_hw,
            radius=self.radius,
            beta=self.beta,
            num_steps_log2=self.num_steps_log2,
            size=(height, width),
            background_threshold=self.background_threshold,
        )
        return cut_instances(
            walked.scores,
            classes_P=walked.classes,
            size=(height, width),
            background_threshold=self.background_threshold,
            min_area=self.min_area * height * width,
        )


def _with_unknown_classes(joined: Mapping[str, Record], shard: str) -> Missing | None:
    """`Missing` for an image that may show other classes: a pixel without an instance would not be background."""
    cams = cast(CamRecord, joined["cams"])
    return Missing(key=cams.key, reason="it has unknown classes", left_out=True) if cams.unknown else None


def boundary_and_displacement(network: IRNet, image_13HW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boundary probability f32[h, w] and displacement field f32[1, 2, h, w].

    Boundary logits of the image and its mirror image are averaged before the sigmoid; the displacement field is
    computed from the unmirrored image only.

    Source: irn's public code.
    """
    import torch

    logits_11hw, displacement_12hw = network(image_13HW)
    mirrored_11hw = network.edge_logits(image_13HW.flip(-1))
    edge_hw = torch.sigmoid((logits_11hw[0, 0] + mirrored_11hw[0, 0].flip(-1)) / 2)
    return edge_hw, displacement_12hw
