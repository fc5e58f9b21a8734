from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shards.images import encode_png
from shards.records import CamRecord, Missing, Sample, grid_size
from tests.wsss.layers import instance_of, samples_of
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.data.images import resize_image, to_tensor
from wsss.ops.grad_cam import METHODS
from wsss.stages.make_cams import MakeCams
from wsss.stages.train_classifier import TrainClassifier

CLASSIFIER = TrainClassifier(encoder="test_efficientnet", pretrained="none", dilated=False)
SHARD = "val-000000"


def picture(key: str, classes: tuple[int, ...], *, size: tuple[int, int] = (70, 50)) -> Sample:
    seed = sum(key.encode())
    image = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return Sample(key=key, encoded=encode_png(image), size=size, classes=classes, mask=None, position=0)


def train_at_random(path: Path, stage: TrainClassifier, pictures: list[Sample], *, seed: int = 5) -> Instance:
    """A classifier of random weights over a layer of these samples."""
    instance = instance_of(stage, path, samples=samples_of(path, {SHARD: pictures}))
    instance.path.mkdir(parents=True)
    torch.manual_seed(seed)
    network = stage.model(instance, pretrained=True)
    with torch.no_grad():  # of a random network all probabilities are near one half
        network.head.weight.mul_(30)  # type: ignore[union-attr, operator]
    save_file(network.state_dict(), weights_path(instance))
    return instance


@pytest.fixture
def trained(tmp_path: Path) -> Instance:
    pictures = [picture("a", (4, 1)), picture("b", (2,), size=(33, 64)), picture("c", ())]
    return train_at_random(tmp_path, CLASSIFIER, pictures)


def make(trained: Instance, **settings: object) -> dict[str, CamRecord]:
    stage = MakeCams(**{"scales": (1.0, 0.5), **settings})
    instance = instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained)
    stage.check(instance)
    records = list(stage.worker(instance)(SHARD))
    assert all(isinstance(record, CamRecord) for record in records)
    return {record.key: record for record in records}  # type: ignore[misc]


def test_at_the_last_layer_cam_and_grad_cam_and_the_elementwise_form_are_one_map(trained: Instance) -> None:
    cams = make(trained)
    assert cams["a"].classes.tolist() == [4, 1] and cams["a"].maps.shape == (2, *grid_size((70, 50)))
    assert cams["a"].maps.max() > 0.9 and cams["c"].maps.shape[0] == 0
    for method in ("grad_cam", "elementwise_grad_cam"):
        for key, record in make(trained, method=method).items():
            np.testing.assert_allclose(record.maps, cams[key].maps, atol=2e-3)
    different = make(trained, method="grad_cam_pp")
    assert np.abs(different["a"].maps.astype(float) - cams["a"].maps).max() > 0.05


@pytest.mark.parametrize("method", METHODS)
def test_an_earlier_layer_gives_other_maps(trained: Instance, method: str) -> None:
    last, earlier = make(trained, method=method), make(trained, method=method, target_layer="blocks.3")
    assert earlier["a"].maps.shape == last["a"].maps.shape
    assert np.abs(earlier["a"].maps.astype(float) - last["a"].maps).max() > 0.05
    assert earlier["a"].maps.min() >= 0 and earlier["a"].maps.max() <= 1


def test_mirror_images_give_mirrored_maps(trained: Instance) -> None:
    flipped = replace(trained.samples, name="flipped", path=trained.path.parent / "flipped")
    from tests.wsss.layers import write_layer

    image = picture("a", (4, 1)).image[:, ::-1]
    mirrored = replace(picture("a", (4, 1)), encoded=encode_png(image))
    write_layer(flipped.path, "sample", {SHARD: [mirrored]})
    other = replace(trained, inputs={"samples": flipped})
    stage = MakeCams(scales=(1.0,), method="grad_cam", target_layer="blocks.3")
    instance = instance_of(stage, trained.path.parent, samples=flipped, classifier=other)
    (record,) = stage.worker(instance)(SHARD)
    assert isinstance(record, CamRecord)
    straight = make(trained, method="grad_cam", target_layer="blocks.3", scales=(1.0,))["a"]
    np.testing.assert_allclose(record.maps[:, :, ::-1], straight.maps, atol=5e-3)


def test_global_normalisation_keeps_the_ratio_of_the_classes(trained: Instance) -> None:
    view = {"scales": (1.0,), "flip": False}
    per_class, common = make(trained, **view)["a"].maps, make(trained, normalisation="global", **view)["a"].maps
    peaks = common.max(axis=(1, 2)).astype(float)
    assert peaks.max() > 0.999 and peaks.min() < 0.99
    np.testing.assert_allclose(common, per_class * peaks[:, None, None], atol=5e-3)


UNKNOWN = [
    replace(picture("c", ()), unknown=(1, 2, 3, 4, 5)),  # nothing is known
    replace(picture("a", (4, 1)), unknown=(2,)),
    replace(picture("c", ()), key="d", unknown=(2, 5)),
    replace(picture("c", ()), key="e"),  # known to show nothing
    picture("b", (3,)),
]


def of_unknown(
    trained: Instance, path: Path, *, split: str = "train", **settings: Any
) -> dict[str, CamRecord | Missing]:
    shard = f"{split}-000000"
    samples = samples_of(path / "other", {shard: UNKNOWN})
    stage = MakeCams(scales=(1.0,), **settings)
    instance = instance_of(stage, path, samples=samples, classifier=trained)
    return {r.key: r for r in stage.worker(instance)(shard) if isinstance(r, CamRecord | Missing)}


def test_images_with_unknown_classes_are_left_out_by_default(trained: Instance, tmp_path: Path) -> None:
    found = of_unknown(trained, tmp_path)
    reasons = {key: r.reason for key, r in found.items() if isinstance(r, Missing) and r.left_out}
    assert reasons == {"c": "5 classes are unknown", "a": "1 class is unknown", "d": "2 classes are unknown"}
    assert {key: r.unknown for key, r in found.items() if isinstance(r, CamRecord)} == {"e": (), "b": ()}


def test_undecided_images_keep_their_labels_and_name_what_is_unknown(trained: Instance, tmp_path: Path) -> None:
    found = of_unknown(trained, tmp_path, unknown_classes="undecided")
    assert {key: (r.classes.tolist(), r.unknown) for key, r in found.items() if isinstance(r, CamRecord)} == {
        "c": ([], (1, 2, 3, 4, 5)),
        "a": ([4, 1], (2,)),
        "d": ([], (2, 5)),
        "e": ([], ()),
        "b": ([3], ()),
    }


def test_the_classifier_may_decide_on_unknown_classes(trained: Instance, tmp_path: Path) -> None:
    """An unknown class gets a map if it is predicted; a class that is known to be absent never does."""
    from wsss.contract.fit import load_trained
    from wsss.data.images import to_tensor

    x_3HW = to_tensor(picture("c", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)
    with torch.no_grad():
        probability = torch.sigmoid(load_trained(trained)(x_3HW[None])[0])
    threshold = float(probability.sort().values[1:3].mean())
    seen = [row + 1 for row in range(5) if probability[row] >= threshold]
    assert len(seen) == 3
    found = of_unknown(trained, tmp_path, unknown_classes="predicted", unlabelled_threshold=threshold)
    records = {key: r for key, r in found.items() if isinstance(r, CamRecord)}
    assert records["c"].classes.tolist() == seen
    assert records["d"].classes.tolist() == [c for c in seen if c in (2, 5)]
    assert records["a"].classes.tolist()[:2] == [4, 1] and set(records["a"].classes.tolist()) <= {4, 1, 2}
    assert records["e"].classes.tolist() == [] and records["b"].classes.tolist() == [3]
    assert all(r.unknown == () for r in records.values()) and len(records) == len(UNKNOWN)


@pytest.mark.parametrize(
    ("unchecked", "split", "kept"),
    [
        ("unknown", "train", {"e", "b"}),
        ("absent", "train", {"a", "b", "c", "d", "e"}),
        ("absent_if_labelled", "train", {"a", "b", "e"}),
        ("absent", "val", {"e", "b"}),  # of other splits nothing is assumed
    ],
)
def test_what_unchecked_classes_count_as(
    trained: Instance, tmp_path: Path, unchecked: str, split: str, kept: set[str]
) -> None:
    found = of_unknown(trained, tmp_path, unchecked=unchecked, split=split)
    assert {key for key, r in found.items() if isinstance(r, CamRecord)} == kept


def of_equal_size() -> list[Sample]:
    """Twelve images of two sizes, one that does not decode, and one without a label."""
    labels = [(4, 1), (2,), (), (1, 2, 3), (5,), (4,)] * 2
    pictures = [picture(f"p{n}", c, size=[(70, 50), (33, 64)][n % 3 == 1]) for n, c in enumerate(labels)]
    pictures[7] = replace(pictures[7], encoded=b"no image")
    return pictures


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "grad_cam", "target_layer": "blocks.3"},
        {"flip": False},
        {"method": "region_cam"},
        {"method": "self_similarity", "finest_stride": 8},
    ],
)
def test_images_of_equal_size_looked_at_together_get_what_each_gets_alone(
    trained: Instance, settings: dict[str, object]
) -> None:
    from tests.wsss.layers import write_layer

    samples = replace(trained.samples, path=trained.path.parent / "many")
    write_layer(samples.path, "sample", {SHARD: of_equal_size()})
    found = {}
    for size in (1, 3):
        stage = MakeCams(scales=(1.0, 0.5), batch_images=size, **settings)
        instance = instance_of(stage, trained.path.parent, samples=samples, classifier=trained)
        found[size] = list(stage.worker(instance)(SHARD))
    assert [r.key for r in found[3]] == [r.key for r in found[1]] == [p.key for p in of_equal_size()]
    for alone, together in zip(found[1], found[3], strict=True):
        assert type(alone) is type(together)
        if isinstance(alone, Missing) or isinstance(together, Missing):
            assert alone.key == "p7" and alone == together
            continue
        assert alone.classes.tolist() == together.classes.tolist()
        np.testing.assert_allclose(alone.maps, together.maps, atol=2e-3)


def test_stochastic_maps_do_not_depend_on_the_neighbours(tmp_path: Path) -> None:
    for units in ("windows", "units"):
        classifier = replace(CLASSIFIER, head="stochastic", stochastic_kernel=3, stochastic_units=units)
        trained = train_at_random(tmp_path / units, classifier, of_equal_size())
        found = []
        for size in (1, 4):
            stage = MakeCams(scales=(1.0, 0.5), batch_images=size, method="stochastic", num_samples=3)
            instance = instance_of(stage, tmp_path, samples=trained.samples, classifier=trained)
            found.append([r for r in stage.worker(instance)(SHARD) if isinstance(r, CamRecord)])
        for alone, together in zip(*found, strict=True):
            assert alone.peak is not None and together.peak is not None
            np.testing.assert_allclose(alone.maps, together.maps, atol=2e-3)
            np.testing.assert_allclose(alone.peak, together.peak, atol=2e-3)
            assert (alone.peak.astype(float) >= alone.maps.astype(float) - 1e-3).all()


def drawn_of_views(trained: Instance, **settings: object) -> list[int]:
    """The number of maps drawn of each view of the one image."""
    from wsss.stages.classifier import cam_maker

    drawn: list[int] = []
    draw = cam_maker.stochastic_cam

    def counted(*arguments: object, num_samples: int, **others: object) -> object:
        drawn.append(num_samples)
        return draw(*arguments, num_samples=num_samples, **others)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cam_maker, "stochastic_cam", counted)
        make(trained, method="stochastic", **settings)
    return drawn


def test_samples_per_image_are_divided_among_the_views(tmp_path: Path) -> None:
    classifier = replace(CLASSIFIER, head="stochastic", stochastic_kernel=3)
    trained = train_at_random(tmp_path, classifier, [picture("a", (4, 1))])
    per_view = drawn_of_views(trained, num_samples=3)
    assert per_view == [3, 3, 3, 3], "scale 1 and its mirror image, scale 0.5 and its mirror image"
    for number, wanted in ((4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (7, [2, 2, 2, 1]), (200, [50] * 4)):
        per_image = drawn_of_views(trained, num_samples=number, samples_per="image")
        assert per_image == wanted and sum(wanted) == number
    unflipped = drawn_of_views(trained, num_samples=5, samples_per="image", flip=False)
    assert unflipped == [3, 2]
    one = drawn_of_views(trained, num_samples=5, samples_per="image", flip=False, scales=(1.0,))
    assert one == [5]
    with pytest.raises(ValueError, match=r"num_samples = 3 with samples_per = 'image' leaves some of the 4 views"):
        make(trained, method="stochastic", num_samples=3, samples_per="image")


def test_every_draw_of_an_image_has_the_same_weight(tmp_path: Path) -> None:
    """Of views with 2, 2, 1 and 1 draws, the mean is that of six maps, not the mean of four means."""
    from wsss.stages.classifier import cam_maker

    classifier = replace(CLASSIFIER, head="stochastic", stochastic_kernel=3)
    trained = train_at_random(tmp_path, classifier, [picture("a", (4, 1))])
    sums: list[torch.Tensor] = []
    peaks: list[torch.Tensor] = []
    draw = cam_maker.stochastic_cam

    def kept(*arguments: object, num_samples: int, **others: object) -> tuple[torch.Tensor, torch.Tensor]:
        mean, peak = draw(*arguments, num_samples=num_samples, **others)  # type: ignore[arg-type]
        sums.append(mean * num_samples)
        peaks.append(peak)
        return mean, peak

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cam_maker, "stochastic_cam", kept)
        found = make(trained, method="stochastic", num_samples=6, samples_per="image")["a"]
    assert found.peak is not None
    np.testing.assert_allclose(found.maps, (torch.stack(sums).sum(0) / 6).numpy(), atol=1e-3)
    np.testing.assert_allclose(found.peak, torch.stack(peaks).amax(0).numpy(), atol=1e-3)


def test_draws_per_view_are_the_results_made_before_the_setting_existed() -> None:
    old = hashed_values(MakeCams(method="stochastic"))
    assert "samples_per" not in old and "samples_per" not in hashed_values(MakeCams(samples_per="image"))
    assert hashed_values(MakeCams(method="stochastic", samples_per="image"))["samples_per"] == "image"


def test_a_dropped_class_has_no_map_and_one_trained_apart_has_its_own(trained: Instance, tmp_path: Path) -> None:
    """Class 4 is left out by the first classifier and learned by the second alone."""
    name = trained.taxonomy.name_of(4)
    dropping = replace(trained, stage=replace(CLASSIFIER, dropped_classes=(name,)))
    assert make(dropping)["a"].classes.tolist() == [1]
    person = train_at_random(tmp_path / "second_classifier", replace(CLASSIFIER, only_classes=(name,)), [], seed=9)
    both = MakeCams(scales=(1.0, 0.5), second_classifier=True)
    instance = instance_of(both, tmp_path, samples=trained.samples, classifier=dropping, second_classifier=person)
    both.check(instance)
    found = {r.key: r for r in both.worker(instance)(SHARD) if isinstance(r, CamRecord)}
    assert found["a"].classes.tolist() == [4, 1] and found["b"].classes.tolist() == [2]
    whole = make(trained)
    np.testing.assert_array_equal(found["a"].maps[1], whole["a"].maps[1])
    assert np.abs(found["a"].maps[0].astype(float) - whole["a"].maps[0]).max() > 0.05
    with pytest.raises(
        ValueError, match=rf"make_cams.second_classifier: train_classifier and train_classifier both learn {name}"
    ):
        both.check(replace(instance, inputs={**instance.inputs, "classifier": trained}))


def test_training_images_of_dropped_classes_alone_are_left_out(trained: Instance, tmp_path: Path) -> None:
    """Validation keeps them: what is not found there counts against the method."""
    name = trained.taxonomy.name_of(2)
    dropping = replace(trained, stage=replace(CLASSIFIER, dropped_classes=(name,)))
    pictures = [picture("a", (4, 2)), picture("b", (2,)), picture("c", ())]
    samples = samples_of(tmp_path / "both", {"train-000000": pictures, SHARD: pictures})
    instance = instance_of(MakeCams(scales=(1.0,)), tmp_path, samples=samples, classifier=dropping)
    work = MakeCams(scales=(1.0,)).worker(instance)
    found = {r.key: r for r in work("train-000000")}
    assert isinstance(found["b"], Missing) and found["b"].left_out and "no classifier learns" in found["b"].reason
    shown = {key: r.classes.tolist() for key, r in found.items() if isinstance(r, CamRecord)}
    assert shown == {"a": [4], "c": []}
    assert {r.key: r.classes.tolist() for r in work(SHARD) if isinstance(r, CamRecord)} == {**shown, "b": []}


def test_views_are_no_longer_than_max_side(trained: Instance) -> None:
    """An image of 640 pixels at scale 2 is looked at as one at scale 1 is, where 640 is the limit."""
    seen: list[tuple[int, ...]] = []
    from tests.wsss.layers import write_layer
    from wsss.stages.classifier import cam_maker

    samples = replace(trained.samples, path=trained.path.parent / "long")
    write_layer(samples.path, "sample", {SHARD: [picture("a", (4, 1), size=(64, 640))]})
    stage = MakeCams(scales=(2.0, 0.5), max_side=640)
    instance = instance_of(stage, trained.path.parent, samples=samples, classifier=trained)
    with pytest.MonkeyPatch.context() as patch:
        resize = cam_maker.resize_image
        patch.setattr(cam_maker, "resize_image", lambda x, *, size: seen.append(size) or resize(x, size=size))
        (record,) = stage.worker(instance)(SHARD)
    assert seen == [(64, 640), (32, 320)]
    assert isinstance(record, CamRecord) and record.maps.shape == (2, 16, 160)
    tiny = samples_of(trained.path.parent / "tiny", {SHARD: [picture("a", (4, 1), size=(3, 5))]})
    instance = instance_of(MakeCams(scales=(0.05, 1.0)), trained.path.parent, samples=tiny, classifier=trained)
    (record,) = MakeCams(scales=(0.05, 1.0)).worker(instance)(SHARD)
    assert isinstance(record, CamRecord) and record.maps.shape == (2, 1, 2)


def test_settings_that_do_not_fit(trained: Instance) -> None:
    with pytest.raises(
        ValueError, match=r"target_layer = 'blocks.2' is only for grad_cam, .*method = 'cam' reads the last"
    ):
        make(trained, target_layer="blocks.2")
    with pytest.raises(ValueError, match="normalisation = 'global' cannot be used with method = 'stochastic'"):
        stochastic = replace(trained, stage=replace(CLASSIFIER, head="stochastic"))
        make(stochastic, method="stochastic", normalisation="global")
    with pytest.raises(
        ValueError,
        match=r"make_cams.method = 'stochastic' needs a classifier with head = 'stoch",
    ):
        make(trained, method="stochastic")
    stage = MakeCams(method="grad_cam", target_layer="block.2")
    instance = instance_of(stage, trained.path.parent, samples=trained.samples, classifier=trained)
    with pytest.raises(ValueError, match=r"target_layer = 'block.2': the encoder has no layer .*there are 'last'"):
        stage.check_environment(instance)
    replace(stage, target_layer="blocks.2").check_environment(instance)
    with pytest.raises(ValueError, match=r"target_layer = 'global_pool': the layer runs 0 times in a forward pass"):
        replace(stage, target_layer="global_pool").check_environment(instance)
    with pytest.raises(ValueError, match="normalisation = 'global' cannot be used with second_classifier = true"):
        both = MakeCams(second_classifier=True, normalisation="global")
        one, other = (replace(CLASSIFIER, **{n: ("walker",)}) for n in ("dropped_classes", "only_classes"))  # type: ignore[arg-type]
        named = {"classifier": replace(trained, stage=one), "second_classifier": replace(trained, stage=other)}
        both.check(instance_of(both, trained.path.parent, samples=trained.samples, **named))


@pytest.mark.parametrize("method", ["cam", "grad_cam", "region_cam", "self_similarity"])
def test_probabilities_are_of_the_mean_logits_of_all_views(trained: Instance, method: str) -> None:
    record = make(trained, method=method, scales=(1.0, 0.5), batch_images=2)["a"]
    network = load_trained(trained)
    x = to_tensor(picture("a", ()).image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)[None]
    small = resize_image(x, size=(35, 32))
    with torch.no_grad():
        logits = torch.stack([network(view)[0] for view in (x, x.flip(-1), small, small.flip(-1))])
    wanted = logits.mean(0).sigmoid()[[3, 0]]
    assert record.probabilities is not None and record.probabilities.dtype == np.float16
    np.testing.assert_allclose(record.probabilities, wanted, atol=5e-4)
    assert abs(float(wanted[0] - wanted[1])) > 2e-3
    assert len(make(trained, method=method)["c"].probabilities) == 0  # type: ignore[arg-type]


def test_scales_of_a_long_side_give_what_images_of_that_size_would(trained: Instance, monkeypatch: Any) -> None:
    """The views of a 70 x 50 image with long_side = 140 are those of its sizes 140 x 100 and 70 x 50."""
    seen: list[tuple[int, ...]] = []
    from wsss.stages.classifier import cam_maker

    resize = cam_maker.resize_image
    monkeypatch.setattr(cam_maker, "resize_image", lambda x, *, size: seen.append(size) or resize(x, size=size))
    found = make(trained, long_side=140, scales=(1.0, 0.5), flip=False)
    assert seen == [(140, 100), (70, 50), (72, 140), (36, 70)]
    by_scales = make(trained, scales=(2.0, 1.0), flip=False)
    assert np.array_equal(found["a"].maps, by_scales["a"].maps) and found["a"].maps.shape[1:] == grid_size((70, 50))
    assert np.array_equal(found["a"].probabilities, by_scales["a"].probabilities)  # type: ignore[arg-type]
    assert not np.array_equal(found["a"].maps, make(trained, scales=(1.0, 0.5), flip=False)["a"].maps)


@pytest.mark.parametrize("method", ["cam", "grad_cam", "stochastic", "region_cam", "self_similarity"])
def test_with_long_side_every_method_keeps_the_images_own_grid(method: str, tmp_path: Path) -> None:
    head = "stochastic" if method == "stochastic" else "linear"
    pictures = [picture("a", (4, 1)), picture("b", (2,), size=(33, 64))]
    of_head = train_at_random(tmp_path, replace(CLASSIFIER, head=head), pictures)
    many: dict[str, object] = {"num_samples": 3} if method == "stochastic" else {}
    for record in make(of_head, method=method, long_side=96, **many).values():
        assert record.maps.shape[1:] == grid_size(record.size) and record.maps.max() <= 1


def test_classes_of_an_unlabelled_image_are_judged_at_long_side(trained: Instance, monkeypatch: Any) -> None:
    seen: list[tuple[int, ...]] = []
    from wsss.stages.classifier import cam_maker

    resize = cam_maker.resize_image
    monkeypatch.setattr(cam_maker, "resize_image", lambda x, *, size: seen.append(size) or resize(x, size=size))
    unlabelled = replace(picture("a", ()), unknown=(1, 2, 3, 4, 5))
    samples = samples_of(trained.path.parent / "unlabelled", {SHARD: [unlabelled]})
    stage = MakeCams(scales=(0.5,), long_side=140, unknown_classes="predicted", unlabelled_threshold=0.01, flip=False)
    list(stage.worker(instance_of(stage, trained.path.parent, samples=samples, classifier=trained))(SHARD))
    assert seen == [(140, 100), (70, 50)]


def test_long_side_enters_a_fingerprint_only_where_given() -> None:
    assert "long_side" not in hashed_values(MakeCams()) and hashed_values(MakeCams(long_side=96))["long_side"] == 96


def test_square_roots_of_every_view_are_added(trained: Instance) -> None:
    """By its definition; the square root of the added maps would be another one."""
    network, record = load_trained(trained), make(trained, square_root=True)["a"]
    sample = picture("a", (4, 1))
    x = to_tensor(sample.image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)[None]
    total = torch.zeros(2, *grid_size(sample.size))
    with torch.no_grad():
        for size in ((70, 50), (35, 32)):
            for mirrored in (False, True):
                view = resize_image(x, size=size)
                features = network.features(view.flip(-1) if mirrored else view)[0]
                maps = torch.einsum("kd,dhw->khw", network.cam_weights[[3, 0]], features).relu().sqrt()
                maps = maps.flip(-1) if mirrored else maps
                total += torch.nn.functional.interpolate(maps[None], size=total.shape[1:], mode="bilinear")[0]
    wanted = total / (total.amax((1, 2), keepdim=True) + 1e-5)
    assert record.maps.astype(float) == pytest.approx(wanted.numpy(), abs=2e-3)
    plain = make(trained)["a"].maps.astype(float)
    assert np.abs(np.sqrt(plain) - record.maps).max() > 0.02

    one_view = {"scales": (1.0,), "flip": False}
    rooted, linear = (make(trained, square_root=root, **one_view)["a"].maps for root in (True, False))
    assert rooted.astype(float).mean() > 1.1 * linear.astype(float).mean()  # weak activations become stronger


def test_square_roots_of_stochastic_maps_are_refused(trained: Instance) -> None:
    stochastic = replace(trained, stage=replace(CLASSIFIER, head="stochastic"))
    with pytest.raises(ValueError, match="square_root = true cannot be used with method = 'stochastic'"):
        make(stochastic, method="stochastic", square_root=True)
