"""The work of every stage that goes through shards, one function per kind.

Shape letters: `K` classes present, `C` classes with background, `H W` pixels, `h w` the stride-4 grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from wsss.contract.stage import Instance, Map
from wsss.data.images import long_side_size
from wsss.ops.grad_cam import METHODS
from wsss.ops.multi_scale import view_sizes
from wsss.ops.random_walk import chebyshev_power
from wsss.plan.context import Desk
from wsss.plan.costs import WALK_TOLERANCE
from wsss.plan.images import has_masks, images_of, layers_read, num_shards, record_bytes, shard_size
from wsss.plan.work import Load, ShardWork, Storage, Units
from wsss.stages.build_shards import BuildShards
from wsss.stages.evaluate import Evaluate
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit
from wsss.stages.train_classifier import TrainClassifier

_LISTING = {"ilsvrc_det": "list_ilsvrc", "lid": "list_ilsvrc", "coco": "list_coco"}
_READ = {"sample": "sample", "cam": "maps", "score": "maps"}
_REFINED_AT_ONCE = 2
"""Label maps that make_seeds refines of one image."""


def through_layers(instance: Instance, desk: Desk, load: Load, *, has_network: bool) -> ShardWork:
    """A `Map` stage that makes a record of every image from those of the layers it reads."""
    images = images_of(instance, desk.paper)
    total, layers = sum(images.values()), layers_read(instance)
    read = sum(record_bytes(up, desk.paper, desk.costs) for up in layers.values())
    shards = num_shards(instance, images)
    storage = Storage(
        read=total * read,
        written=total * record_bytes(instance, desk.paper, desk.costs),
        requests=shards * (2.0 * len(layers) + 2),  # a tar and its row: read of each layer, written of its own
    )
    load = load + Load(core=_reading(layers, desk)) + Load(core=_writing(instance, desk))
    return ShardWork(
        images=total,
        shards=shards,
        load=load,
        has_network=has_network,
        storage=storage,
        driver={"driver_row": float(total)},
    )


def _reading(layers: dict[str, Instance], desk: Desk) -> dict[str, float]:
    units: dict[str, float] = {}
    for up in layers.values():
        name = f"read_{_READ.get(cast(Map, up.stage).record_kind, 'mask')}"
        units[name] = units.get(name, 0.0) + _record_units(name, desk)
    return units


def _writing(instance: Instance, desk: Desk) -> dict[str, float]:
    kind = cast(Map, instance.stage).record_kind
    name, stage = f"write_{_READ.get(kind, 'mask')}", cast(Any, instance.stage)
    planes = 2 if getattr(stage, "method", "") == "stochastic" else 1 + len(getattr(stage, "ablation", ()))
    return {name: _record_units(name, desk) * planes}


def _record_units(name: str, desk: Desk) -> float:
    """Units of reading or writing one record."""
    if name.endswith("maps"):
        return desk.paper.meganodes * desk.classes_per_image
    return 1.0 if name.endswith("sample") else desk.paper.megapixels


def _decoded(desk: Desk) -> Load:
    return Load(core={"decode_image": desk.paper.megapixels})


def _crf(iterations: int, labels: float, desk: Desk, *, maps: int = 1) -> Units:
    """Units of the dense CRF of one image; its lattices serve all maps."""
    pixels = desk.paper.megapixels
    return {"crf_lattice": pixels, "crf_step_label": pixels * iterations * labels * maps}


def build_shards(instance: Instance, desk: Desk) -> ShardWork:
    """Images copied, and decoded once to see that they can be; finished shards are read where they lie."""
    stage = cast(BuildShards, instance.stage)
    images = images_of(instance, desk.paper)
    total, shards = sum(images.values()), num_shards(instance, images)
    size = record_bytes(instance, desk.paper, desk.costs)
    if stage.source == "shards":  # rows and index alone are copied
        rows = Storage(requests=shards + 1.0)
        driver = {"driver_row": float(total)}
        return ShardWork(images=total, shards=shards, load=Load(), has_network=False, storage=rows, driver=driver)
    listing = {} if stage.source == "toy" else {_LISTING.get(stage.source, "list_table"): float(total)}
    return ShardWork(
        images=total,
        shards=shards,
        load=Load(core={"decode_image": desk.paper.megapixels, "write_sample": 1.0}),
        has_network=False,
        storage=Storage(read=total * size, written=total * size, requests=total + 2.0 * shards),
        driver={"driver_row": float(total), **listing},
    )


def make_cams(instance: Instance, desk: Desk) -> ShardWork:
    """Views of images that show a class, through every classifier; then maps of the classes present."""
    stage, paper = cast(MakeCams, instance.stage), desk.paper
    views = 2 if stage.flip else 1
    load = Load()
    for slot in (slot for slot in ("classifier", "apart") if slot in instance.inputs):
        trained = instance.inputs[slot]
        for size in _within(view_sizes(paper.size, scales=stage.scales), stage.max_side):
            one = Load(flops=views * desk.networks.forward(trained, size), passes=1 / stage.batch_images)
            load += one + Load(arrays={"make_view": size[0] * size[1] / 1e6})
            load += _maps(stage, trained, size, desk) * views
    return through_layers(instance, desk, _decoded(desk) + load * paper.labelled_share, has_network=True)


def _within(sizes: Sequence[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    return [size if max(size) <= longest else long_side_size(size, long_side=longest) for size in sizes]


def _maps(stage: MakeCams, trained: Instance, size: tuple[int, int], desk: Desk) -> Load:
    """From the features of one view to the maps of K classes."""
    classifier, labels = cast(TrainClassifier, trained.stage), desk.paper.labels
    if stage.method == "stochastic":
        units = size[0] * size[1] / classifier.output_stride**2 * classifier.stochastic_kernel**2 / 1e6
        return Load(arrays={"stochastic_map": units * labels * stage.num_samples})
    on_grid = Load(arrays={"cam_maps": desk.paper.meganodes * labels})
    if stage.method not in METHODS:
        return on_grid
    back = desk.networks.way_back(trained, size, layer=stage.target_layer)
    return on_grid + Load(flops=back * labels, passes=labels / stage.batch_images / (2 if stage.flip else 1))


def make_seeds(instance: Instance, desk: Desk) -> ShardWork:
    """Maps to pixels, thresholds, and the dense CRF over both label maps."""
    stage, paper = cast(MakeSeeds, instance.stage), desk.paper
    core: Units = {"seeds": paper.megapixels * paper.labels}
    load = Load(core=core)
    if stage.refine == "crf" and stage.rule != "ficklenet":
        maps = 1 if stage.background == "saliency" else _REFINED_AT_ONCE
        load += Load(core=_crf(stage.crf_iterations, paper.labels + 1, desk, maps=maps)) + _decoded(desk)
    return through_layers(instance, desk, load * paper.labelled_share, has_network=False)


def make_scores(instance: Instance, desk: Desk) -> ShardWork:
    """The affinity network on an image (IRNet: and its mirror image), then the walk."""
    stage, paper = cast(MakeScores, instance.stage), desk.paper
    trained = instance.inputs.get("affinity")
    if trained is None:
        return through_layers(instance, desk, Load(), has_network=False)
    is_irnet = cast(Any, trained.stage).network == "irnet"
    nodes = paper.meganodes if is_irnet else paper.meganodes / 4
    planes = paper.labels + (stage.background_exponent is not None)
    terms = len(chebyshev_power(2**stage.num_steps_log2, tolerance=WALK_TOLERANCE))
    load = Load(
        flops=(2 if is_irnet else 1) * desk.networks.forward(trained, paper.size),
        passes=1 / stage.batch_images,
        arrays={"walk_setup": nodes, "walk_step": nodes * terms * planes},
    )
    return through_layers(instance, desk, (_decoded(desk) + load) * paper.labelled_share, has_network=True)


def make_pseudo_labels(instance: Instance, desk: Desk) -> ShardWork:
    """Scores to pixels, then the dense CRF."""
    stage, paper = cast(MakePseudoLabels, instance.stage), desk.paper
    load = Load(core={"seeds": paper.megapixels * paper.labels})
    if stage.refine == "crf":
        load += Load(core=_crf(stage.crf_iterations, paper.labels + 1, desk)) + _decoded(desk)
    return through_layers(instance, desk, load * paper.labelled_share, has_network=False)


def make_instance_labels(instance: Instance, desk: Desk) -> ShardWork:
    """IRNet's boundaries and displacements, followed to centroids; a walk per instance."""
    assert isinstance(instance.stage, MakeInstanceLabels)
    trained, paper = instance.inputs["affinity"], desk.paper
    flops = sum(desk.networks.forward(trained, paper.size, part=part) for part in ("forward", "edge_logits"))
    load = Load(flops=flops, passes=2, arrays={"instances": paper.meganodes})
    return through_layers(instance, desk, (_decoded(desk) + load) * paper.labelled_share, has_network=True)


def _segmented(instance: Instance, desk: Desk, *, merged: float, longest: int | None) -> Load:
    """Views of one image through a segmenter, merged at `merged` million positions."""
    stage, trained = cast(Any, instance.stage), instance.inputs["segmenter"]
    size = long_side_size(desk.paper.size, long_side=stage.long_side) if stage.long_side else desk.paper.size
    sizes = view_sizes(size, scales=stage.scales)
    views = 2 if stage.flip else 1
    load = Load()
    for view in sizes if longest is None else _within(sizes, longest):
        load += Load(flops=desk.networks.forward(trained, view), passes=1)
    num_classes = len(instance.taxonomy) + 1
    return load * views + Load(arrays={"merge_view": merged * num_classes * views * len(sizes)})


def make_segmenter_maps(instance: Instance, desk: Desk) -> ShardWork:
    """Views through a segmenter, merged on the grid."""
    assert isinstance(instance.stage, MakeSegmenterMaps)
    load = _segmented(instance, desk, merged=desk.paper.meganodes, longest=None)
    return through_layers(instance, desk, _decoded(desk) + load, has_network=True)


def predict(instance: Instance, desk: Desk) -> ShardWork:
    """Views through a segmenter, merged at the image's size; a dense CRF where asked for."""
    stage = cast(Predict, instance.stage)
    load = _segmented(instance, desk, merged=desk.paper.megapixels, longest=stage.max_side)
    if stage.refine == "crf":
        load += Load(arrays=_crf(stage.crf_iterations, desk.paper.labels + 1, desk))
    return through_layers(instance, desk, _decoded(desk) + load, has_network=True)


def evaluate(instance: Instance, desk: Desk) -> ShardWork:
    """Records of images with masks against these; the others are read and passed over."""
    stage, records = cast(Evaluate, instance.stage), instance.inputs["records"]
    of_split = {split: count for split, count in images_of(records, desk.paper).items() if split in stage.splits}
    total = sum(of_split.values())
    masked = sum(count for split, count in of_split.items() if has_masks(instance, split))
    counted: dict[str, float]
    if _READ.get(cast(Map, records.stage).record_kind) == "maps":
        counted = {"evaluate_maps": desk.paper.megapixels * desk.paper.labels}
    else:
        counted = {"evaluate_labels": desk.paper.megapixels}
        if stage.boundary_width and cast(Map, records.stage).record_kind != "seed":
            counted["evaluate_boundary"] = desk.paper.megapixels
    layers = layers_read(instance)
    read = sum(record_bytes(up, desk.paper, desk.costs) for up in layers.values())
    load = Load(core=_reading(layers, desk)) + Load(core=counted) * (masked / max(total, 1))
    shards = num_shards(instance, of_split)
    return ShardWork(
        images=total,
        shards=shards,
        load=load,
        has_network=False,
        storage=Storage(read=total * read, requests=2.0 * shards * len(layers)),
    )


def submit(instance: Instance, desk: Desk) -> ShardWork:
    """The driver packs all predictions of a split into one file."""
    stage, predictions = cast(Submit, instance.stage), instance.inputs["predictions"]
    count = images_of(predictions, desk.paper).get(stage.split, 0)
    size = record_bytes(predictions, desk.paper, desk.costs)
    pixels = count * desk.paper.megapixels
    return ShardWork(
        images=count,
        shards=-(-count // shard_size(instance)),
        load=Load(),
        has_network=False,
        storage=Storage(read=count * size, written=count * size, requests=2.0 * -(-count // shard_size(instance))),
        driver={"read_mask": pixels, "write_mask": pixels},
    )
