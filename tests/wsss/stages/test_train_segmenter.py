"""train_segmenter: its validation by mean IoU, and the settings that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from shards.images import encode_png
from shards.records import Prediction, PseudoLabel, Sample, SeedRecord, grid_size
from tests.wsss.layers import instance_of, records_of, samples_of
from wsss.contract.fit import Draw
from wsss.contract.settings import hashed_values, resolved
from wsss.contract.stage import Instance
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.predict import Predict
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_segmenter import TrainSegmenter
from wsss.tasks.dsrg import grid_logits

SETTINGS: dict[str, Any] = {"encoder": "test_efficientnet", "pretrained": "none", "dilated": False, "crop_size": 32}
RATES: tuple[dict[str, Any], ...] = ({}, {"aspp_rates": (12, 24, 36)})
SIZES = [(37, 53), (41, 29), (31, 43), (47, 59), (61, 23), (53, 37), (29, 31)]


def picture(key: str, position: int, *, has_mask: bool = True) -> Sample:
    generator = np.random.default_rng(position)
    size = SIZES[position % len(SIZES)]
    image = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
    mask = generator.choice(np.array([0, 1, 3, 255], np.uint8), size)
    encoded = encode_png(image)
    return Sample(
        key=key, encoded=encoded, size=size, classes=(1, 3), mask=mask if has_mask else None, position=position
    )


def samples(path: Path, *, masked: tuple[bool, ...] = (True,) * 7) -> Instance:
    val = [picture(f"v{n}", n, has_mask=has_mask) for n, has_mask in enumerate(masked)]
    return samples_of(path, {"train-000000": [picture("t", 0)], "val-000000": val[:3], "val-000001": val[3:]})


def segmenter(of: Instance, **settings: Any) -> tuple[TrainSegmenter, Instance]:
    stage = TrainSegmenter(**{**SETTINGS, **settings})
    instance = instance_of(stage, of.path.parent, samples=of)
    stage.check(instance)
    return stage, instance


class Brightest(nn.Module):
    """Class 1 where a pixel is brighter than the mean, 3 where it is much darker, background elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([0.0, 0.1, -9.0, 0.0, -9.0, -9.0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grey = image.mean(1)
        zero = torch.zeros_like(grey)
        return torch.stack([zero, grey, zero, -grey - 0.5, zero, zero], 1) + self.bias[:, None, None]


def test_mean_iou_by_its_definition(tmp_path: Path) -> None:
    stage, instance = segmenter(samples(tmp_path), validate_every=1, validation_images=0)
    network = Brightest()
    found = stage.validate(network, instance)  # type: ignore[arg-type]
    hits, union = np.zeros(6), np.zeros(6)
    for number in range(7):
        sample = picture("", number)
        x = (torch.from_numpy(sample.image.copy()).double() / 255 - torch.tensor(stage.mean)) / torch.tensor(stage.std)
        predicted = network(x.permute(2, 0, 1)[None].float())[0].argmax(0).numpy()
        assert sample.mask is not None
        for c in range(6):
            seen = sample.mask != 255
            truth, guess = (sample.mask == c) & seen, (predicted == c) & seen
            hits[c], union[c] = hits[c] + (truth & guess).sum(), union[c] + (truth | guess).sum()
    wanted = [hits[c] / union[c] for c in range(6) if union[c]]
    assert len(wanted) == 3
    assert found.score == found.outcome.metrics["val.mean_iou"] == pytest.approx(np.mean(wanted))
    rows = found.outcome.tables["per_class"]
    assert [row["class"] for row in rows] == ["background", *instance.taxonomy.names]
    assert [row["iou"] for row in rows if row["iou"] is not None] == pytest.approx(wanted)
    assert stage.finish(network, instance) == found.outcome  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "keys"), [(3, "v0 v2 v4"), (0, "v0 v1 v2 v3 v4 v5 v6"), (99, "v0 v1 v2 v3 v4 v5 v6")]
)
def test_a_bounded_number_of_images_over_all_shards(tmp_path: Path, number: int, keys: str) -> None:
    stage, instance = segmenter(samples(tmp_path), validate_every=1, validation_images=number)
    assert [sample.key for sample in stage.validation_samples(instance)] == keys.split()


def test_images_are_resized_and_masks_are_not(tmp_path: Path) -> None:
    stage, instance = segmenter(samples(tmp_path), validate_every=1, validation_size=48)
    seen: list[tuple[int, ...]] = []

    class Seeing(Brightest):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(image.shape[-2:]))
            return F.interpolate(super().forward(image), scale_factor=0.5)

    assert 0 < stage.validate(Seeing(), instance).score < 1  # type: ignore[arg-type]
    assert len(seen) == 7 and {max(size) for size in seen} == {48} and len(set(seen)) > 4


def test_images_without_masks_are_passed_over_and_a_split_without_any_is_refused(tmp_path: Path) -> None:
    some = samples(tmp_path / "some", masked=(False, True, False, False, True, True, False))
    stage, instance = segmenter(some, validate_every=1)
    assert [sample.key for sample in stage.validation_samples(instance)] == ["v1", "v4", "v5"]
    stage, instance = segmenter(samples(tmp_path / "none", masked=(False,) * 7), validate_every=1)
    with pytest.raises(ValueError, match="validation_split = 'val' has no mask among the images"):
        stage.training_set(instance)
    with pytest.raises(ValueError, match="validation_split = 'val' has no readable mask"):
        stage.validate(Brightest(), instance)  # type: ignore[arg-type]


def test_without_validation_its_settings_enter_no_fingerprint(tmp_path: Path) -> None:
    off, on = (hashed_values(TrainSegmenter(**SETTINGS, validate_every=n)) for n in (0, 1))
    assert set(on) - set(off) == {"validation_split", "validation_images", "validation_size"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"validate_every": 1, "validation_split": "test"},
            r"validation_split = 'test', but build_shards has only train, val",
        ),
        ({"network": "aspp", "output_stride": 32}, r"output_stride = 32: network = 'aspp' .* 8 or 16"),
        ({"objective": "dsrg", "crop_size": 44}, r"crop_size = 44: objective = 'dsrg' .* set 40, 41 or 48"),
        ({"keep": "best"}, r"keep = 'best' needs validate_every = 1 or more"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(samples(tmp_path), **settings)


def pseudo_label(key: str, position: int) -> PseudoLabel:
    """Every pixel of a cell of the grid has the class and the confidence of that cell."""
    size = SIZES[position % len(SIZES)]
    confidence = np.random.default_rng(position).integers(0, 255, grid_size(size), dtype=np.uint8)
    mask = (confidence % 6).repeat(4, 0).repeat(4, 1)[: size[0], : size[1]]
    return PseudoLabel(key=key, mask=mask, confidence=confidence)


def labelled(path: Path, **settings: Any) -> tuple[TrainSegmenter, Instance]:
    of = samples_of(path, {"train-000000": [picture(f"t{n}", n) for n in range(3)]})
    labels = records_of(MakePseudoLabels(), path, of, {"train-000000": [pseudo_label(f"t{n}", n) for n in range(3)]})
    stage = TrainSegmenter(**{**SETTINGS, "crop_size": 64, "resize_long": (64, 64), **settings})
    return stage, instance_of(stage, path, samples=of, pseudo_labels=labels)


def test_weights_follow_their_pixels(tmp_path: Path) -> None:
    """Of a cell, class and confidence go together, through flips, resizing and crops."""
    stage, instance = labelled(tmp_path / "weighted", confidence_power=2.0)
    plain, unweighted = labelled(tmp_path / "plain")
    for index in range(3):
        example = stage.training_set(instance).example(Draw(index, 0))
        without = plain.training_set(unweighted).example(Draw(index, 0))
        assert "weight" not in without
        torch.testing.assert_close(example["image"], without["image"])
        assert torch.equal(example["label"], without["label"])
        seen = example["label"] != 255
        confidence = (255 * example["weight"].sqrt()).round().long()
        assert torch.equal(confidence[seen] % 6, example["label"][seen]) and len(confidence[seen].unique()) > 6


def test_a_power_of_0_leaves_the_fingerprint_as_it_was() -> None:
    assert "confidence_power" not in hashed_values(TrainSegmenter(**SETTINGS))
    assert hashed_values(TrainSegmenter(**SETTINGS, confidence_power=1.0))["confidence_power"] == 1.0


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"pixel_loss": "symmetric"}, lambda p: -0.1 * p.log() + 4 * (1 - p)),
        (
            {"pixel_loss": "symmetric", "symmetric_alpha": 0.5, "symmetric_beta": 0.3, "symmetric_log_zero": -7.0},
            lambda p: -0.5 * p.log() + 0.3 * 7 * (1 - p),
        ),
        ({"pixel_loss": "generalised"}, lambda p: (1 - p**0.7) / 0.7),
        ({"pixel_loss": "generalised", "generalised_exponent": 0.3}, lambda p: (1 - p**0.3) / 0.3),
        ({}, lambda p: -p.log()),
    ],
)
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_loss_of_a_pixel_is_a_setting(
    tmp_path: Path, settings: dict[str, Any], wanted: Callable[[torch.Tensor], torch.Tensor], power: float
) -> None:
    stage, instance = labelled(tmp_path, **settings, confidence_power=power)
    task = stage.task(instance).eval()
    example = stage.training_set(instance).example(Draw(1, 0))
    batch = {name: value[None] for name, value in example.items() if name in ("label", "weight")}
    batch["image"] = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    output = task(batch)
    label, seen = batch["label"], batch["label"] != 255
    with torch.no_grad():
        share = task.network(batch["image"]).softmax(1).gather(1, label.where(seen, 0)[:, None])[:, 0]
    weight = batch["weight"][seen] if power else torch.ones(int(seen.sum()))
    torch.testing.assert_close(output.total(), (wanted(share[seen]) * weight).sum() / weight.sum())
    assert set(output.terms) == {settings.get("pixel_loss", "cross_entropy")}


def test_the_loss_of_a_pixel_enters_a_fingerprint_only_where_it_is_read() -> None:
    def names(**settings: Any) -> set[str]:
        return {n for n in hashed_values(TrainSegmenter(**SETTINGS, **settings)) if n.startswith(("pix", "sym", "gen"))}

    assert names() == names(pixel_loss="symmetric", full_share=1.0) == set()
    assert names(pixel_loss="symmetric", objective="dsrg") == set()
    symmetric = {"pixel_loss", "symmetric_alpha", "symmetric_beta", "symmetric_log_zero"}
    assert names(pixel_loss="symmetric") == names(pixel_loss="symmetric", full_share=0.5) == symmetric
    assert names(pixel_loss="generalised") == {"pixel_loss", "generalised_exponent"}


def test_strong_augmentation_is_a_setting(tmp_path: Path) -> None:
    weak, weakly = labelled(tmp_path / "weak")
    strong, strongly = labelled(tmp_path / "strong", augmentation="strong")
    examples = [
        [s.training_set(i).example(Draw(n, 0))["image"] for n in range(3)]
        for s, i in ((weak, weakly), (strong, strongly))
    ]
    assert all(a.shape == b.shape and not torch.equal(a, b) for a, b in zip(*examples, strict=True))
    assert "augmentation" not in hashed_values(weak) and "colour_jitter" in hashed_values(weak)
    assert "colour_jitter" not in hashed_values(strong)


@pytest.mark.parametrize("settings", [{}, {"confidence_power": 1.0}, {"confidence_threshold": 0.4}])
def test_predictions_train_as_pseudo_labels_do(tmp_path: Path, settings: dict[str, Any]) -> None:
    stage, instance = labelled(tmp_path, **settings)
    made = [pseudo_label(f"t{n}", n) for n in range(3)]
    records = [Prediction(key=one.key, mask=one.mask, confidence=one.confidence) for one in made]
    predictions = records_of(
        Predict(splits=("train",)), tmp_path, instance.inputs["samples"], {"train-000000": records}
    )
    pupil = replace(instance, inputs={**instance.inputs, "pseudo_labels": predictions})
    stage.check(pupil)
    for index in range(3):
        one, other = (stage.training_set(i).example(Draw(index, 0)) for i in (instance, pupil))
        assert one.keys() == other.keys()
        for name in one:
            assert name == "key" or torch.equal(one[name], other[name]), name


def test_predictions_of_other_splits_are_refused(tmp_path: Path) -> None:
    stage, instance = labelled(tmp_path)
    elsewhere = instance_of(Predict(), tmp_path, samples=instance.inputs["samples"])
    with pytest.raises(ValueError, match=r"trains on the split 'train', which predict does not make; set predict.spl"):
        stage.check(replace(instance, inputs={**instance.inputs, "pseudo_labels": elsewhere}))


def seeded(tmp_path: Path, **settings: Any) -> tuple[TrainSegmenter, Instance]:
    of = samples_of(tmp_path, {"train-000000": [picture(f"t{n}", n) for n in range(3)]})
    labels = [pseudo_label(f"t{n}", n).mask for n in range(3)]
    records = [SeedRecord(key=f"t{n}", label=np.where(label > 3, 255, label)) for n, label in enumerate(labels)]
    seeds = records_of(MakeSeeds(), tmp_path, of, {"train-000000": records})
    stage = TrainSegmenter(**{**SETTINGS, "decoder_channels": 8, "loop_crf_iterations": 1, **settings})
    return stage, instance_of(stage, tmp_path, samples=of, seeds=seeds)


def test_dsrg_reads_seeds_in_place_of_pseudo_labels(tmp_path: Path) -> None:
    stage, instance = seeded(tmp_path, objective="dsrg")
    assert stage.used_slots() == ("samples", "seeds")
    assert TrainSegmenter(**SETTINGS).used_slots() == ("samples", "pseudo_labels")
    stage.check(instance)
    examples = [stage.training_set(instance).example(Draw(n, 0)) for n in range(2)]
    assert examples[0]["present"].tolist() == [True, True, False, True, False, False]
    names = ("image", "seeds", "present", "pixels")
    batch = {name: torch.stack([example[name] for example in examples]) for name in names}
    assert batch["seeds"].shape == (2, 4, 4) and batch["pixels"].shape == (2, 4, 4, 3)
    output = stage.task(instance)(stage.on_device(batch))
    assert output.total().isfinite() and set(output.terms) == {"seed_background", "seed_foreground", "boundary"}


@pytest.mark.parametrize("network", ["deeplabv3plus", "largefov"])
def test_crops_of_one_pixel_more_have_one_grid_point_more(tmp_path: Path, network: str) -> None:
    settings: dict[str, Any] = {"objective": "dsrg", "crop_size": 65, "network": network, "dilated": True}
    stage, instance = seeded(tmp_path, output_stride=8, **settings)
    stage.check(instance)
    stage.check_environment(instance)
    examples = [stage.training_set(instance).example(Draw(n, 0)) for n in range(2)]
    batch = {name: torch.stack([one[name] for one in examples]) for name in ("image", "seeds", "present", "pixels")}
    assert batch["seeds"].shape == (2, 9, 9) and batch["pixels"].shape == (2, 9, 9, 3)
    task: Any = stage.task(instance)
    batch = stage.on_device(batch)
    assert task(batch).total().isfinite()
    if network == "largefov":
        task.eval()
        with torch.no_grad():
            logits, strided = task.network(batch["image"]), task.network.strided_logits(batch["image"])[0]
        torch.testing.assert_close(grid_logits(logits, size=(9, 9)), strided)
        plain: Any = TrainSegmenter(**{**SETTINGS, **settings, "output_stride": 8, "objective": "cross_entropy"})
        assert not plain.model(instance, pretrained=False).corner_to_corner, "as before, with the other objectives"


def test_crops_without_a_grid_are_refused(tmp_path: Path) -> None:
    stage, instance = seeded(tmp_path, objective="dsrg", crop_size=66)
    with pytest.raises(ValueError, match=r"crop_size = 66: objective = 'dsrg' needs .* set 64, 65 or 72"):
        stage.check(instance)
    npa: dict[str, Any] = {"encoder": "vgg16_npa", "network": "largefov", "output_stride": 8, "dilated": True}
    stage, instance = seeded(tmp_path / "npa", objective="dsrg", crop_size=65, **npa)
    with pytest.raises(ValueError, match=r"crop_size = 65, encoder = 'vgg16_npa': of an image of 65x65 pixels"):
        stage.check_environment(instance)


def test_settings_of_dsrg_enter_a_fingerprint_with_it_alone() -> None:
    plain, dsrg = (hashed_values(TrainSegmenter(**SETTINGS, objective=o)) for o in ("cross_entropy", "dsrg"))
    own = {"growing_foreground_threshold", "growing_background_threshold", "objective"}
    crf = {f"loop_crf_{name}" for name in ("iterations", "gaussian", "bilateral", "scale")}
    assert set(dsrg) - set(plain) == own | crf and set(plain) - set(dsrg) == {"confidence_threshold"}


def test_earlier_heads_are_a_setting(tmp_path: Path) -> None:
    of = samples(tmp_path)
    for name, num_branches in (("largefov", 1), ("aspp", 4)):
        settings = {**SETTINGS, "encoder": "vgg16_ficklenet", "dilated": True, "output_stride": 8, "network": name}
        stage = TrainSegmenter(**settings)
        instance = instance_of(stage, tmp_path, samples=of)
        stage.check(instance)
        with torch.device("meta"):
            network: Any = stage.model(instance, pretrained=False)
        assert len(network.head.branches) == num_branches
        assert network.head.branches[0][-1].out_channels == 6
    plain, aspp = hashed_values(TrainSegmenter(**SETTINGS)), hashed_values(stage)
    assert "network" not in plain and "decoder_channels" in plain
    assert aspp["network"] == "aspp" and "decoder_channels" not in aspp
    assert "head_channels" not in aspp, "its default enters no fingerprint: it was published"
    narrow = TrainSegmenter(**settings, head_channels=16)
    assert hashed_values(narrow)["head_channels"] == 16
    made: Any = narrow.model(instance_of(narrow, tmp_path, samples=of), pretrained=False)
    assert made.head.branches[0][0].out_channels == 16


def test_rates_of_the_aspp_depend_on_the_output_stride(tmp_path: Path) -> None:
    def rates(**settings: Any) -> list[int]:
        stage, instance = segmenter(samples(tmp_path / str(len(list(tmp_path.iterdir())))), **settings)
        with torch.device("meta"):
            network: Any = stage.model(instance, pretrained=False)
        found = {
            layer.dilation[0]
            for layer in network.network.decoder.aspp.modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)
        }
        return sorted(found - {1})

    assert rates(output_stride=16) == [6, 12, 18] and rates(output_stride=8) == [12, 24, 36]
    assert rates(output_stride=16, aspp_rates=(12, 24, 36)) == [12, 24, 36] and rates(aspp_rates=(2, 3, 5)) == [2, 3, 5]
    default = hashed_values(TrainSegmenter(**SETTINGS))
    assert default == hashed_values(TrainSegmenter(**SETTINGS, aspp_rates=(6, 12, 18)))
    assert "aspp_rates" not in hashed_values(TrainSegmenter(**SETTINGS, network="aspp", output_stride=8))


def test_weights_of_networks_with_other_rates_do_not_fit(tmp_path: Path) -> None:
    of = samples(tmp_path)
    one, other = (instance_of(TrainSegmenter(**SETTINGS, **rates), tmp_path, samples=of) for rates in RATES)
    stage: Any = one.stage
    stage.require_same_architecture(one, replace(one, stage=TrainSegmenter(**SETTINGS, aspp_rates=(6, 12, 18))))
    with pytest.raises(ValueError, match=r"aspp_rates = \(6, 12, 18\), but it starts .* which has \(12, 24, 36\)"):
        stage.require_same_architecture(one, other)


def test_weight_of_masks_depends_on_the_objective() -> None:
    for objective, wanted in (("cross_entropy", 2.0), ("dsrg", 2.0), ("self_correction", 1.0)):
        stage = TrainSegmenter(**SETTINGS, objective=objective, full_share=0.5)
        assert resolved(stage, "full_weight") == hashed_values(stage)["full_weight"] == wanted
        given = TrainSegmenter(**SETTINGS, objective=objective, full_share=0.5, full_weight=3)
        assert resolved(given, "full_weight") == 3.0


def test_sec_reads_seeds_and_the_classes_that_are_absent(tmp_path: Path) -> None:
    stage, instance = seeded(tmp_path, objective="sec", crop_size=65)
    assert stage.used_slots() == ("samples", "seeds")
    stage.check(instance)
    examples = [stage.training_set(instance).example(Draw(n, 0)) for n in range(2)]
    assert examples[0]["present"].tolist() == [True, True, False, True, False, False]
    assert examples[0]["absent"].tolist() == [False, False, True, False, True, True]
    names = ("image", "seeds", "present", "absent", "pixels")
    batch = {name: torch.stack([example[name] for example in examples]) for name in names}
    output = stage.task(instance)(stage.on_device(batch))
    wanted = {"seed", "expand_present", "expand_absent", "expand_background", "boundary"}
    assert output.total().isfinite() and set(output.terms) == wanted


def test_an_unknown_class_is_not_absent_for_sec(tmp_path: Path) -> None:
    stage, instance = seeded(tmp_path, objective="sec")
    images: Any = stage.training_set(instance)
    assert images.labels(replace(picture("t", 0), unknown=(2, 5)))["absent"].tolist() == [False] * 4 + [True, False]


def test_sec_refuses_labels_without_seeds(tmp_path: Path) -> None:
    stage, instance = seeded(tmp_path, objective="sec", crop_size=65)
    classifier = TrainClassifier(dropped_classes=(instance.taxonomy.names[2],))
    of = instance.inputs["samples"]
    cams = instance_of(MakeCams(), tmp_path, samples=of, classifier=instance_of(classifier, tmp_path, samples=of))
    seeds = replace(instance.inputs["seeds"], inputs={"samples": of, "cams": cams})
    dropped = replace(instance, inputs={**instance.inputs, "seeds": seeds})
    with pytest.raises(
        ValueError, match=rf"no classifier behind its seeds learns '{instance.taxonomy.names[2]}' \(1 such"
    ):
        stage.check(dropped)
    TrainSegmenter(**SETTINGS, objective="dsrg").check(dropped)


def test_settings_of_sec_enter_a_fingerprint_with_it_alone() -> None:
    dsrg, sec = (hashed_values(TrainSegmenter(**SETTINGS, objective=o)) for o in ("dsrg", "sec"))
    assert set(sec) - set(dsrg) == {"expand_foreground_decay", "expand_background_decay"}
    assert set(dsrg) - set(sec) == {"growing_foreground_threshold", "growing_background_threshold"}
    assert (sec["expand_foreground_decay"], sec["expand_background_decay"]) == (0.996, 0.999)
