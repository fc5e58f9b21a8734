"""make_scores: AffinityNet's walk by its definition, the background that walks along, and images left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.images import encode_png
from shards.reader import read_shard
from shards.records import CamRecord, Missing, Sample, ScoreRecord
from tests.wsss.layers import instance_of, records_of, samples_of, write_layer
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.settings import hashed_values, inactive_settings
from wsss.contract.stage import Instance
from wsss.data.images import to_tensor
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import feature_walk, random_walk
from wsss.stages.affinity.walk import resize_planes
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_segmenter import TrainSegmenter

SIZE, GRID = (43, 54), (11, 14)
SHARDS = ("train-000000", "val-000000")


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def maps() -> np.ndarray:
    return np.random.default_rng(1).random((2, *GRID)).astype(np.float16)


def prepared(path: Path, probabilities: dict[str, list[float]] | None = None, **settings: Any) -> Instance:
    samples, cams = [], []
    for key, seen in (probabilities or {"a": [0.9, 0.9]}).items():
        samples.append(Sample(key=key, encoded=encode_png(image()), size=SIZE, classes=(2, 5), position=0))
        classes, of_classes = np.array([2, 5], np.int16), np.array(seen, np.float16)
        cams.append(CamRecord(key=key, classes=classes, maps=maps(), probabilities=of_classes, size=SIZE))
    path.mkdir(exist_ok=True)
    made = samples_of(path, dict.fromkeys(SHARDS, samples))
    mapped = records_of(MakeCams(), path, made, dict.fromkeys(SHARDS, cams))
    return instance_of(MakeScores(**settings), path, samples=made, cams=mapped)


def with_affinitynet(instance: Instance) -> Instance:
    stage = TrainAffinity(network="affinitynet", output_stride=8, encoder="test_efficientnet", pretrained="none")
    trained = instance_of(stage, instance.path.parent, samples=instance.inputs["samples"])
    trained.path.mkdir(parents=True)
    torch.manual_seed(3)
    save_file(stage.model(trained, pretrained=True).state_dict(), weights_path(trained))
    return instance_of(instance.stage, instance.path.parent, **instance.inputs, affinity=trained)


def scores(instance: Instance, shard: str = SHARDS[0]) -> list[ScoreRecord | Missing]:
    assert isinstance(instance.stage, MakeScores)
    return list(instance.stage.worker(instance)(shard))  # type: ignore[arg-type]


def walked_by_definition(planes: torch.Tensor, trained: Instance, *, radius: int, beta: float, steps: int) -> Any:
    """Dense matrix of the affinities, its columns normalised, to the power of the steps; on the grid of stride 8."""
    assert isinstance(trained.stage, TrainAffinity)
    x = to_tensor(image(), mean=trained.stage.mean, std=trained.stage.std)[None]
    with torch.no_grad():
        features = load_trained(trained)(x)[0].double()
    h, w = features.shape[1:]
    pooled = torch.zeros(len(planes), h, w, dtype=torch.float64)
    for y in range(h):
        for x_ in range(w):
            pooled[:, y, x_] = planes[:, 2 * y : 2 * y + 2, 2 * x_ : 2 * x_ + 2].double().mean((1, 2))
    matrix = torch.eye(h * w, dtype=torch.float64)
    for y in range(h):
        for x_ in range(w):
            for dy, dx in half_plane_offsets(radius):
                if y + dy < h and 0 <= x_ + dx < w:
                    near = torch.exp(-(features[:, y, x_] - features[:, y + dy, x_ + dx]).abs().mean()) ** beta
                    one, other = y * w + x_, (y + dy) * w + x_ + dx
                    matrix[one, other] = matrix[other, one] = near
    walk = torch.linalg.matrix_power(matrix / matrix.sum(0), steps)
    walked = (pooled.flatten(1) @ walk).view_as(pooled)
    twice = torch.nn.functional.interpolate(walked[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    return twice[:, : GRID[0], : GRID[1]]


def at_pixels(planes: torch.Tensor) -> torch.Tensor:
    """Magnified four times and cropped to the image, as irn does."""
    fine = torch.nn.functional.interpolate(planes[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    return fine[:, : SIZE[0], : SIZE[1]]


@pytest.mark.parametrize("background_exponent", [None, 16.0])
def test_affinitynets_walk_by_its_definition(tmp_path: Path, background_exponent: float | None) -> None:
    settings = {"radius": 3, "beta": 8.0, "num_steps_log2": 3, "background_exponent": background_exponent}
    instance = with_affinitynet(prepared(tmp_path, **settings))
    (record,) = scores(instance)
    assert isinstance(record, ScoreRecord)
    planes = torch.from_numpy(maps()).float()
    background = (1 - planes.amax(0)) ** 16
    trained = instance.inputs["affinity"]
    walked = walked_by_definition(torch.cat([background[None], planes]), trained, radius=3, beta=8.0, steps=8)
    largest = at_pixels(walked[1:]).max()
    np.testing.assert_allclose(record.scores.astype(float), (walked[1:] / largest).numpy(), atol=2e-3)
    if background_exponent is None:
        assert record.background is None
    else:
        assert record.background is not None
        np.testing.assert_allclose(record.background.astype(float), (walked[0] / largest).numpy(), atol=2e-3)


def test_scores_per_class(tmp_path: Path) -> None:
    settings = {"radius": 3, "beta": 8.0, "num_steps_log2": 3, "background_exponent": 16.0}
    (whole,) = scores(with_affinitynet(prepared(tmp_path / "global", **settings)))
    (apart,) = scores(with_affinitynet(prepared(tmp_path / "per_class", **settings, normalisation="per_class")))
    assert isinstance(whole, ScoreRecord) and isinstance(apart, ScoreRecord)
    peaks, own_peaks = (at_pixels(torch.from_numpy(r.scores).float()).amax((1, 2)) for r in (whole, apart))
    assert float(peaks.max()) == pytest.approx(1, abs=1e-3) and float(peaks.min()) < 0.99
    assert own_peaks.tolist() == pytest.approx([1, 1], abs=1e-3)
    assert whole.background is not None and apart.background is not None
    np.testing.assert_allclose(apart.background, whole.background, atol=1e-3)


def test_without_a_walk_the_maps_stay(tmp_path: Path) -> None:
    instance = prepared(tmp_path, propagation="none", background_exponent=2.0)
    assert isinstance(instance.stage, MakeScores) and instance.stage.used_slots() == ("samples", "cams")
    (record,) = scores(instance)
    assert isinstance(record, ScoreRecord) and record.background is not None
    assert np.array_equal(record.scores, maps())
    np.testing.assert_allclose(record.background, (1 - maps().max(0).astype(float)) ** 2, atol=1e-3)


def test_images_that_the_classifier_doubts_are_left_out_of_training_alone(tmp_path: Path) -> None:
    probabilities = {"a": [0.9, 0.81], "b": [0.99, 0.3], "c": [0.7, 0.9]}
    instance = prepared(tmp_path, probabilities, propagation="none", min_probability=0.8)
    kept, *left_out = scores(instance)
    assert kept.key == "a"
    assert [(r.key, r.left_out) for r in left_out if isinstance(r, Missing)] == [("b", True), ("c", True)]
    assert [r.reason for r in left_out if isinstance(r, Missing)] == [
        "class 5 has probability 0.30, below min_probability",
        "class 2 has probability 0.70, below min_probability",
    ]
    assert [record.key for record in scores(instance, "val-000000") if isinstance(record, ScoreRecord)] == [
        "a",
        "b",
        "c",
    ]


def test_images_of_one_size_are_walked_together(tmp_path: Path) -> None:
    """Also where they have different classes, or none, and where one between them does not decode."""
    settings = {"radius": 3, "beta": 8.0, "num_steps_log2": 3, "background_exponent": 16.0}
    found = []
    for batch_images in (1, 3):
        path = tmp_path / str(batch_images)
        instance = prepared(path, {key: [0.9, 0.9] for key in "abcd"}, batch_images=batch_images, **settings)
        samples = [replace(s, encoded=b"no image") if s.key == "b" else s for s in read(instance, "samples")]
        few = {"c": 1, "d": 0}
        cams = [
            replace(c, classes=c.classes[: few.get(c.key, 2)], maps=c.maps[: few.get(c.key, 2)])
            for c in read(instance, "cams")
        ]
        write_layer(instance.inputs["samples"].path, "sample", dict.fromkeys(SHARDS, samples))
        write_layer(instance.inputs["cams"].path, "cam", dict.fromkeys(SHARDS, cams))
        found.append(scores(with_affinitynet(instance)))
    for alone, together in zip(*found, strict=True):
        assert alone.key == together.key
        if isinstance(alone, Missing):
            assert alone == together and alone.key == "b"
            continue
        assert isinstance(together, ScoreRecord)
        assert together.scores.shape == (few.get(alone.key, 2), *GRID)
        np.testing.assert_allclose(together.scores, alone.scores, atol=1e-3)
        np.testing.assert_allclose(together.background, alone.background, atol=1e-3)  # type: ignore[arg-type]


def read(instance: Instance, slot: str) -> list[Any]:
    return list(read_shard(instance.inputs[slot].layer, SHARDS[0]))


def test_maps_of_next_to_nothing_leave_a_finite_background(tmp_path: Path) -> None:
    instance = prepared(tmp_path, radius=3, beta=8.0, num_steps_log2=3, background_exponent=16.0)
    (cams,) = read(instance, "cams")
    for number, scale in enumerate((0.0, 1e-7)):
        faint = replace(cams, maps=(cams.maps * scale).astype(np.float16))
        write_layer(instance.inputs["cams"].path, "cam", {shard: [faint] for shard in SHARDS})
        (record,) = scores(with_affinitynet(replace(instance, path=tmp_path / f"{number}" / "make_scores")))
        assert isinstance(record, ScoreRecord) and record.background is not None
        assert np.isfinite(record.background).all() and record.background.min() > 1000
        assert np.isfinite(record.scores).all()


def test_maps_of_a_segmenter_alone_have_no_probability_to_choose_by(tmp_path: Path) -> None:
    instance = prepared(tmp_path, min_probability=0.5, propagation="none")
    segmenter = instance_of(TrainSegmenter(), tmp_path, samples=instance.inputs["samples"])
    inputs = {"samples": instance.inputs["samples"], "segmenter": segmenter}
    alone = instance_of(MakeSegmenterMaps(weight=1.0), tmp_path, **inputs)
    with pytest.raises(ValueError, match=r"min_probability = 0.5: the maps of make_segmenter_maps have no"):
        instance.stage.check(replace(instance, inputs={**instance.inputs, "cams": alone}))
    instance.stage.check(
        replace(
            instance,
            inputs={
                **instance.inputs,
                "cams": instance_of(MakeSegmenterMaps(), tmp_path, **inputs, cams=instance.inputs["cams"]),
            },
        )
    )


def with_network(instance: Instance, network: Any) -> Instance:
    """An affinity network of random weights; IRNet's boundaries are made strong, so that its walk is not a blur."""
    stage = TrainAffinity(network=network, output_stride=8, encoder="test_efficientnet", pretrained="none")
    trained = instance_of(stage, instance.path.parent, samples=instance.inputs["samples"])
    trained.path.mkdir(parents=True)
    torch.manual_seed(3)
    model = stage.model(trained, pretrained=True)
    if network == "irnet":
        model.edge.join.weight.data.mul_(4)  # type: ignore[union-attr, operator]
    save_file(model.state_dict(), weights_path(trained))
    return instance_of(instance.stage, instance.path.parent, **instance.inputs, affinity=trained)


def on_grid(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(planes[None], size=size, mode="bilinear", antialias=True)[0]


def magnified(planes: torch.Tensor, times: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(planes[None], scale_factor=times, mode="bilinear")[
        0, :, : size[0], : size[1]
    ]


@pytest.mark.parametrize(("long_side", "size"), [(112, (89, 112)), (40, (32, 40)), (33, (32, 33))])
@pytest.mark.parametrize("network", ["irnet", "affinitynet"])
def test_the_walk_on_the_grid_of_a_resized_image(
    network: Any, long_side: int, size: tuple[int, int], tmp_path: Path
) -> None:
    """The network sees the resized image, the maps walk on its grid, and the scores return to the record's grid."""
    steps = {"radius": 3, "beta": 8.0, "num_steps_log2": 3}
    instance = with_network(prepared(tmp_path, **steps, long_side=long_side), network)
    (record,) = scores(instance)
    assert isinstance(record, ScoreRecord) and record.scores.shape == (2, *GRID) and record.size == SIZE
    trained = instance.inputs["affinity"]
    assert isinstance(trained.stage, TrainAffinity)
    x = to_tensor(image(), mean=trained.stage.mean, std=trained.stage.std)[None]
    x = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True)
    fine = (-(-size[0] // 4), -(-size[1] // 4))
    planes = on_grid(torch.from_numpy(maps()).float(), fine)
    with torch.no_grad():
        model = load_trained(trained)
        if network == "irnet":
            edge = torch.sigmoid((model.edge_logits(x) + model.edge_logits(x.flip(-1)).flip(-1)) / 2)[0, 0]
            walked = random_walk(planes, edge_hw=edge, **steps)
        else:
            pooled = torch.nn.functional.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)
            walked = feature_walk(pooled, features_Dhw=model(x)[0], **steps)
            walked = magnified(walked, 2, fine)
    walked = on_grid(walked, GRID)
    np.testing.assert_allclose(
        record.scores.astype(float), (walked / magnified(walked, 4, SIZE).max()).numpy(), atol=2e-3
    )
    (own,) = scores(replace(instance, stage=MakeScores(**steps)))
    assert isinstance(own, ScoreRecord)
    assert np.abs(own.scores.astype(float) - record.scores.astype(float)).max() > 0.01


@pytest.mark.parametrize("network", ["irnet", "affinitynet"])
def test_a_long_side_of_the_image_itself_changes_nothing(network: Any, tmp_path: Path) -> None:
    instance = with_network(prepared(tmp_path, num_steps_log2=3), network)
    (own,), (resized,) = (
        scores(replace(instance, stage=MakeScores(num_steps_log2=3, long_side=side))) for side in (0, max(SIZE))
    )
    assert isinstance(own, ScoreRecord) and isinstance(resized, ScoreRecord)
    assert np.array_equal(own.scores, resized.scores)


def test_planes_on_another_grid_keep_their_range_and_their_mean() -> None:
    planes = torch.rand(2, 3, 11, 14, generator=torch.Generator().manual_seed(2))
    for size in ((22, 28), (5, 7), (11, 14), (1, 1)):
        moved = resize_planes(planes, size=size)
        assert tuple(moved.shape) == (2, 3, *size)
        assert moved.min() >= planes.min() and moved.max() <= planes.max()
        torch.testing.assert_close(moved.mean((2, 3)), planes.mean((2, 3)), atol=0.05, rtol=0)
    torch.testing.assert_close(resize_planes(torch.ones(1, 1, 6, 7), size=(4, 20)), torch.ones(1, 1, 4, 20))
    assert resize_planes(planes, size=(11, 14)) is planes


def test_long_side_is_read_only_with_a_walk_and_enters_a_fingerprint_only_where_given() -> None:
    assert "long_side" not in hashed_values(MakeScores())
    assert hashed_values(MakeScores(long_side=96))["long_side"] == 96
    assert "long_side" in inactive_settings(MakeScores(long_side=96, propagation="none"))


def with_two(instance: Instance, *, kinds: tuple[str, str]) -> Instance:
    """With two trained networks of these kinds, of different weights."""
    inputs, path = {}, instance.path.parent
    for number, (slot, kind) in enumerate(zip(("affinity", "second_affinity"), kinds, strict=True)):
        stride: Any = {"irnet": 16, "affinitynet": 8}[kind]
        encoder: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "output_stride": stride}
        stage = TrainAffinity(network=kind, **encoder)  # type: ignore[arg-type]
        trained = instance_of(stage, path / slot, samples=instance.inputs["samples"])
        trained = replace(trained, name=slot, fingerprint=slot.ljust(64, "0"))
        trained.path.mkdir(parents=True)
        torch.manual_seed(number)
        network: Any = stage.model(trained, pretrained=True)
        if kind == "affinitynet":  # untrained, all pixels of noise are so far apart that nothing would walk
            network.join[0].weight.data *= (0.1, 0.02)[number]
        save_file(network.state_dict(), weights_path(trained))
        inputs[slot] = trained
    return instance_of(instance.stage, path, **instance.inputs, **inputs)


TWO: dict[str, Any] = {"second_affinity": True, "radius": 3, "beta": 8.0, "num_steps_log2": 3}


def test_two_affinitynets_walk_on_the_mean_of_their_matrices(tmp_path: Path) -> None:
    instance = with_two(prepared(tmp_path, **TWO), kinds=("affinitynet", "affinitynet"))
    instance.stage.check(instance)
    (record,) = scores(instance)
    assert isinstance(record, ScoreRecord)
    planes = torch.from_numpy(maps()).float()
    # One step of each network's definition is its matrix, so that steps can be taken in turn on the grid of stride 8.
    affinities = []
    for slot in ("affinity", "second_affinity"):
        stage: Any = instance.inputs[slot].stage
        x = to_tensor(image(), mean=stage.mean, std=stage.std)[None]
        with torch.no_grad():
            features = load_trained(instance.inputs[slot])(x)[0].double()
        h, w = features.shape[1:]
        matrix = torch.eye(h * w, dtype=torch.float64)
        for one in range(h * w):
            for other in range(h * w):
                (y, x_), (v, u) = divmod(one, w), divmod(other, w)
                if one != other and (y - v) ** 2 + (x_ - u) ** 2 < 9:
                    matrix[one, other] = torch.exp(-(features[:, y, x_] - features[:, v, u]).abs().mean()) ** 8
        affinities.append(matrix / matrix.sum(0))
    walk = torch.linalg.matrix_power((affinities[0] + affinities[1]) / 2, 8)
    pooled = torch.nn.functional.avg_pool2d(planes[None], 2, ceil_mode=True, count_include_pad=False)[0].double()
    walked = (pooled.flatten(1) @ walk).view_as(pooled)
    twice = torch.nn.functional.interpolate(walked[None], scale_factor=2, mode="bilinear", align_corners=False)[0]
    twice = twice[:, : GRID[0], : GRID[1]]
    np.testing.assert_allclose(record.scores.astype(float), (twice / at_pixels(twice).max()).numpy(), atol=2e-3)


@pytest.mark.parametrize("kind", ["irnet", "affinitynet"])
@pytest.mark.parametrize("long_side", [0, 96])
def test_twice_the_same_network_is_one(tmp_path: Path, kind: str, long_side: int) -> None:
    instance = with_two(prepared(tmp_path, **TWO, long_side=long_side), kinds=(kind, kind))
    first, second = (instance.inputs[slot] for slot in ("affinity", "second_affinity"))
    alone = replace(instance, stage=replace(instance.stage, second_affinity=False))  # type: ignore[type-var]
    alone = replace(alone, inputs={name: one for name, one in instance.inputs.items() if name != "second_affinity"})
    found = []
    for made in (alone, replace(instance, inputs={**instance.inputs, "second_affinity": first}), instance):
        (record,) = scores(made)
        assert isinstance(record, ScoreRecord)
        found.append(record.scores.astype(float))
    np.testing.assert_allclose(found[1], found[0], atol=1e-3)
    assert second.fingerprint != first.fingerprint and np.abs(found[2] - found[0]).max() > 2e-3


@pytest.mark.parametrize("kind", ["irnet", "affinitynet"])
def test_two_networks_see_several_images_in_one_batch(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = with_two(prepared(tmp_path, **TWO), kinds=(kind, kind))
    assert isinstance(instance.stage, MakeScores)
    walk = instance.stage.walk(instance)
    images = [image(), image()[::-1].copy(), image()[:, ::-1].copy()]
    planes = torch.rand(3, 2, *GRID, generator=torch.Generator().manual_seed(5))
    seen: list[int] = []

    def seeing(images_u8: Any, **given: Any) -> torch.Tensor:
        seen.append(1)
        return to_tensor(images_u8, **given)

    monkeypatch.setattr("wsss.stages.affinity.mean_walk.to_tensor", seeing)
    with torch.inference_mode():
        together = walk(images, planes)
        assert len(seen) == 2 * len(images), "each network reads each image once"
        alone = torch.cat([walk([one], planes[place][None]) for place, one in enumerate(images)])
        nothing = walk(images, planes[:, :0])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2 and nothing.shape == (3, 0, *GRID)


def test_a_second_network_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    instance = with_two(prepared(tmp_path, **TWO), kinds=("irnet", "affinitynet"))
    with pytest.raises(
        ValueError, match=r"needs two networks of one kind.*affinity is 'irnet' and second_affinity 'aff"
    ):
        instance.stage.check(instance)
    same = replace(instance, inputs={**instance.inputs, "second_affinity": instance.inputs["affinity"]})
    with pytest.raises(ValueError, match=r"both slots hold affinity; name two trainings in inputs"):
        same.stage.check(same)


def test_without_a_second_network_neither_slot_nor_fingerprint_change() -> None:
    assert MakeScores().used_slots() == ("samples", "cams", "affinity")
    assert "second_affinity" not in hashed_values(MakeScores())
    assert MakeScores(propagation="none", second_affinity=True).used_slots() == ("samples", "cams")
    assert hashed_values(MakeScores(second_affinity=True))["second_affinity"] is True
