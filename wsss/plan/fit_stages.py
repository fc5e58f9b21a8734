"""The work of every training, one function per kind.

Shape letters: `C` classes with background, `h w` the grid that IRNet's pairs or DSRG's seeds stand on.
"""

from __future__ import annotations

from typing import Any, cast

from shards.storage import is_remote
from wsss.contract.fit import Fit
from wsss.contract.stage import Instance
from wsss.data.images import long_side_size
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.plan.context import Desk
from wsss.plan.images import TRAIN, images_of, layers_read, num_shards, record_bytes, train_images
from wsss.plan.work import FitWork, Load, Storage, Units
from wsss.stages.build_shards import BuildShards
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter

_DSRG_STRIDE = 8
_PASSES_OF_A_STEP = 3.0
"""Calls of the network that a step waits like: forward, and twice as many kernels on the way back."""
_STATES = {"sgd": 2, "adam": 3, "adamw": 3}
"""Weights and what an optimiser keeps beside them, in a checkpoint."""


def train_classifier(instance: Instance, desk: Desk) -> FitWork:
    """Crops of all training images; validation looks at every image of its split."""
    stage = cast(TrainClassifier, instance.stage)
    validation = Load()
    if count := desk.paper.images.get(stage.validation_split, 0):
        size = long_side_size(desk.paper.size, long_side=stage.validation_size)
        validation = _validation(instance, desk, size=size) * count * _validations(stage)
    return _fit(instance, desk, examples=train_images(instance, desk.paper), validation=validation)


def train_affinity(instance: Instance, desk: Desk) -> FitWork:
    """Crops with their seeds; IRNet's losses go over all pixel pairs."""
    stage = cast(TrainAffinity, instance.stage)
    nodes = (stage.crop_size / stage.grid_stride) ** 2 / 1e6
    arrays = {"pair_loss": nodes * len(half_plane_offsets(stage.radius))}
    means = Load()
    if stage.network == "irnet":  # the mean of the displacement field is taken after the last step
        crop = (stage.crop_size, stage.crop_size)
        means = Load(flops=desk.networks.forward(instance, crop, part="forward"), passes=1) * stage.mean_shift_images
    examples = train_images(instance, desk.paper)
    return _fit(instance, desk, examples=examples, validation=means, arrays=arrays)


def train_ancillary(instance: Instance, desk: Desk) -> FitWork:
    """Crops of the images whose masks it may use."""
    return _segmenter(instance, desk, share=cast(Any, instance.stage).full_share)


train_correction = train_ancillary


def train_segmenter(instance: Instance, desk: Desk) -> FitWork:
    """Crops of all images; an epoch with masks of some is one pass over the others."""
    stage, arrays = cast(TrainSegmenter, instance.stage), Load()
    if stage.objective == "dsrg":
        pixels = (stage.crop_size / _DSRG_STRIDE) ** 2 / 1e6
        labels = len(instance.taxonomy) + 1
        steps = stage.loop_crf_iterations * labels
        arrays = Load(arrays={"crf_lattice": pixels, "crf_step_label": pixels * steps})
    share = stage.full_share or 1.0
    if stage.supervision() == "semi":
        share = (1 - stage.full_share) * stage.batch_size / (stage.batch_size - stage.full_per_batch)
    return _segmenter(instance, desk, share=share, arrays=arrays.arrays)


def _segmenter(instance: Instance, desk: Desk, *, share: float, arrays: Units | None = None) -> FitWork:
    stage, validation = cast(Any, instance.stage), Load()
    if stage.validate_every:
        held = desk.paper.images.get(stage.validation_split, 0)
        count = min(held, stage.validation_images or held)
        longest = stage.validation_size
        size = long_side_size(desk.paper.size, long_side=longest) if longest else desk.paper.size
        validation = _validation(instance, desk, size=size) * count * _validations(stage)
    examples = max(1, round(share * train_images(instance, desk.paper)))
    return _fit(instance, desk, examples=examples, validation=validation, arrays=arrays)


def _validations(stage: Fit) -> int:
    """Every few epochs, and once more after the last step."""
    return 1 + (stage.num_epochs // stage.validate_every if stage.validate_every else 0)


def _validation(instance: Instance, desk: Desk, *, size: tuple[int, int]) -> Load:
    """One image, looked at by one rank."""
    read = {"read_sample": 1.0, "decode_image": desk.paper.megapixels}
    return Load(core=read, flops=desk.networks.forward(instance, size), passes=1)


def _fit(instance: Instance, desk: Desk, *, examples: int, validation: Load, arrays: Units | None = None) -> FitWork:
    stage = cast(Fit, instance.stage)
    counted = desk.networks.training(instance)
    load = Load(core=_loading(instance, desk), arrays=arrays or {}, flops=counted.flops, passes=_PASSES_OF_A_STEP)
    exchanged = counted.parameters * desk.costs["weight_bytes"]
    layers = layers_read(instance)
    indexed = sum(images_of(up, desk.paper).get(TRAIN, 0) for up in layers.values())
    return FitWork(
        examples=examples,
        epochs=stage.num_epochs,
        batch_size=stage.batch_size,
        accumulation=stage.accumulation_steps,
        ranks=stage.num_ranks,
        load=load,
        precision=stage.precision,
        loader_workers=stage.loader_workers,
        exchanged=exchanged * (1.5 if stage.zero_stage == 3 else 1.0),  # and weights are gathered for both ways
        storage=_storage(instance, desk, examples=examples, exchanged=exchanged),
        fetched=_fetched(instance, desk, examples=examples),
        start={"start_rank": 1.0, "index_row": float(indexed)},
        validation=validation,
    )


def _loading(instance: Instance, desk: Desk) -> Units:
    """Core seconds of one example: image and label read, changed, made a tensor."""
    stage, paper = cast(Any, instance.stage), desk.paper
    strong = getattr(stage, "augmentation", "weak") == "strong"
    units = {
        "read_sample": 1.0,
        "decode_image": paper.megapixels,
        "augment_strong" if strong else "augment_weak": stage.crop_size**2 / 1e6,
    }
    for slot in layers_read(instance):
        if slot == "cams":
            units["read_maps"] = paper.meganodes * desk.classes_per_image
        elif slot != "samples":
            units["read_mask"] = paper.megapixels
    return units


def _storage(instance: Instance, desk: Desk, *, examples: int, exchanged: float) -> Storage:
    """A seek and a read per example and layer, but for samples that a node's cache holds; checkpoints."""
    stage, layers = cast(Fit, instance.stage), layers_read(instance)
    if is_cached(instance, desk):
        layers = {slot: up for slot, up in layers.items() if slot != "samples"}
    read = examples * sum(record_bytes(up, desk.paper, desk.costs) for up in layers.values())
    checkpoints = stage.num_epochs
    if stage.checkpoint_every:
        checkpoints = max(checkpoints, stage.num_epochs * -(-examples // stage.batch_size) // stage.checkpoint_every)
    return Storage(
        read=stage.num_epochs * read,
        written=checkpoints * exchanged * _STATES[stage.optimizer],
        requests=float(stage.num_epochs * examples * len(layers)),
    )


def _fetched(instance: Instance, desk: Desk, *, examples: int) -> Storage:
    """What every node fetches from the bucket once: the shards of the samples, whole."""
    if not is_cached(instance, desk):
        return Storage()
    read = examples * record_bytes(instance.samples, desk.paper, desk.costs)
    return Storage(read=read, requests=float(num_shards(instance, {TRAIN: examples})))


def is_cached(instance: Instance, desk: Desk) -> bool:
    """Whether samples come from a bucket through a cache that holds them all; else every example is a request."""
    data = cast(BuildShards, instance.samples.stage)
    size = desk.paper.images.get(TRAIN, 0) * record_bytes(instance.samples, desk.paper, desk.costs)
    return data.source == "shards" and is_remote(data.root) and size <= data.cache_gigabytes * 1e9
