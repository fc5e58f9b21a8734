"""objective = "mean_teacher": its settings, its two views of a crop, and their way to the task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.records import PseudoLabel
from tests.wsss.layers import instance_of, records_of, samples_of
from tests.wsss.stages.test_train_segmenter import SETTINGS, picture, pseudo_label
from wsss.contract.cost import FitWork, Load, Storage
from wsss.contract.fit import Draw
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Instance
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.segmenter.taught_images import drawn_box
from wsss.stages.train_segmenter import TrainSegmenter

CONSISTENT = {"min_confidence", "strong_jitter", "cutmix_probability"}
OWN = {"teacher_decay", "consistency_weight", "correct_labels"} | CONSISTENT
CORRECTING = {"correction_slope", "correction_confidence"}


def taught(path: Path, **settings: Any) -> tuple[TrainSegmenter, Instance]:
    """Four images: the classes 1 and 3 are present, class 2 is unknown in the first."""
    images = [picture(f"t{n}", n) for n in range(4)]
    images[0] = replace(images[0], unknown=(2,))
    of = samples_of(path, {"train-000000": images})
    records: list[PseudoLabel] = [pseudo_label(f"t{n}", n) for n in range(4)]
    labels = records_of(MakePseudoLabels(), path, of, {"train-000000": records})
    small: dict[str, Any] = {"crop_size": 64, "resize_long": (48, 48), "decoder_channels": 8, "batch_size": 2}
    stage = TrainSegmenter(**{**SETTINGS, **small, "objective": "mean_teacher", **settings})
    return stage, instance_of(stage, path, samples=of, pseudo_labels=labels)


def test_a_crop_is_seen_in_two_colours(tmp_path: Path) -> None:
    stage, instance = taught(tmp_path, cutmix_probability=1.0)
    plain, _ = taught(tmp_path / "plain", objective="cross_entropy")
    images, others = stage.training_set(instance), plain.training_set(instance)
    shares, changed, drawn_again = [], 0, 0
    for n in range(4):
        example, without = images.example(Draw(n, 0)), others.example(Draw(n, 0))
        for name in ("image", "label"):
            assert torch.equal(example[name], without[name]), "the weak view is what other objectives see"
        assert example["strong"].shape == (64, 64, 3) and example["strong"].dtype == torch.uint8
        changed += not torch.equal(example["strong"], example["image"])
        # The images have 48 pixels on the long side: the rest of the crop is padding. Pixels inside may be ignored too.
        inside = example["inside"]
        rows, columns = inside.any(1).sum(), inside.any(0).sum()
        assert int(inside.sum()) == int(rows * columns) and int(max(rows, columns)) == 48
        assert (example["label"][~inside] == 255).all() and (example["label"][inside] != 255).any()
        shares.append(float(example["cut"].float().mean()))
        again = images.example(Draw(n, 0))
        assert all(name == "key" or torch.equal(example[name], again[name]) for name in example)
        later = images.example(Draw(n, 0, 1))
        drawn_again += not torch.equal(example["strong"], later["strong"])
        assert not torch.equal(example["cut"], later["cut"])
    assert changed >= 3 and drawn_again >= 3, "each step of the strong view has a probability"
    assert all(0.01 < share < 0.45 for share in shares) and len(set(shares)) == 4
    absent = [images.example(Draw(n, 0))["absent"].tolist() for n in range(2)]
    assert absent == [[False, False, False, False, True, True], [False, False, True, False, True, True]]


def test_colours_change_and_nothing_moves(tmp_path: Path) -> None:
    """Without jitter what is left is blur and grey: a strong view of an image of one grey is the image."""
    stage, instance = taught(tmp_path, strong_jitter=0.0, cutmix_probability=0.0)
    images: Any = stage.training_set(instance)
    grey = np.full((64, 64, 3), 90, np.uint8)
    grey[:, 32:] = 200
    planes = np.zeros((64, 64, 2), np.uint8)
    found = [images.tensors(Draw(0, epoch), picture("t0", 0), grey, planes) for epoch in range(8)]
    assert not any(bool(one["cut"].any()) for one in found)
    for one in found:
        strong = one["strong"].numpy()
        assert (strong[:, :20] == 90).all() and (strong[:, 44:] == 200).all()
    assert any((one["strong"].numpy() != grey).any() for one in found), "an edge is blurred"


def test_weights_of_pixels_go_with_their_labels(tmp_path: Path) -> None:
    stage, instance = taught(tmp_path, confidence_power=2.0)
    example = stage.training_set(instance).example(Draw(1, 0))
    seen = example["label"] != 255
    confidence = (255 * example["weight"].sqrt()).round().long()
    assert torch.equal(confidence[seen] % 6, example["label"][seen]) and example["inside"].any()


@pytest.mark.parametrize("settings", [{}, {"confidence_power": 1.0}])
def test_placeholders_are_as_examples(tmp_path: Path, settings: dict[str, Any]) -> None:
    stage, instance = taught(tmp_path, **settings)
    images: Any = stage.training_set(instance)
    example, blank = images.example(Draw(0, 0)), images.blank()
    assert set(blank) == set(example) - {"key", "image"}
    assert all((v.shape, v.dtype) == (example[name].shape, example[name].dtype) for name, v in blank.items())


def test_boxes_are_drawn_with_their_probability_and_inside_the_crop() -> None:
    generator = np.random.default_rng(0)
    boxes = [drawn_box(generator, side=50, probability=0.4) for _ in range(200)]
    assert 50 < sum(box.any() for box in boxes) < 110
    for box in boxes:
        rows, columns = box.any(1).sum(), box.any(0).sum()
        assert box.sum() == rows * columns and box.mean() < 0.45
    assert not any(drawn_box(generator, side=50, probability=0.0).any() for _ in range(20))


@pytest.mark.parametrize("settings", [{}, {"pixel_loss": "symmetric", "confidence_power": 1.0}])
def test_a_batch_of_the_training_set_is_trained_on(tmp_path: Path, settings: dict[str, Any]) -> None:
    stage, instance = taught(tmp_path, min_confidence=0.0, **settings)
    stage.check(instance)
    images = stage.training_set(instance)
    examples = [images.example(Draw(n, 0)) for n in range(2)]
    batch = stage.on_device({n: torch.stack([one[n] for one in examples]) for n in examples[0] if n != "key"})
    assert batch["strong"].shape == batch["image"].shape == (2, 3, 64, 64) and batch["strong"].dtype == torch.float32
    assert float(batch["strong"].abs().max()) < 4
    task: Any = stage.task(instance)
    output = task(batch)
    output.total().backward()
    first = settings.get("pixel_loss", "cross_entropy")
    assert set(output.terms) == {first, "consistency", "confident"}
    assert output.weights == {first: 0.5, "consistency": 0.5, "confident": 0.0}
    assert float(output.terms["confident"].numerator) == float(output.terms["confident"].count)
    trained = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("network.") for name in trained)
    assert set(task.network.state_dict()) == set(stage.model(instance, pretrained=False).state_dict())
    assert set(task.new_parameters()) < set(task.network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"full_share": 0.5}, r"full_share = 0.5: objective = 'mean_teacher' learns from pseudo .* set full_share = 0"),
        ({"zero_stage": 3}, r"zero_stage = 3: the teacher's weights are not sharded; set zero_stage = 2 or less"),
        ({"norm": "batch", "world_size": 2}, r"norm = 'batch': with world_size = 2 .* set norm = 'synchronised' or"),
        (
            {"consistency_weight": 0.0},
            r"consistency_weight = 0 and correct_labels = false: nothing is learned from the teacher; set one",
        ),
        (
            {"correct_labels": True, "num_epochs": 5, "confidence_power": 1.0},
            r"correct_labels = true with confidence_power = 1.0: a corrected pixel would keep the weight of the label",
        ),
        (
            {"correct_labels": True, "num_epochs": 3},
            r"correct_labels = true: num_epochs = 3, but labels are corrected from epoch 4 on at .* to at least that",
        ),
        ({"world_size": 2}, r"cutmix_probability = 0.5: with micro-batches of one image .* set cutmix_probability = 0"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    stage, instance = taught(tmp_path, **settings)
    with pytest.raises(ValueError, match=message):
        stage.chosen().check(instance)  # the objective alone: the stage would ask for masks first


def test_settings_that_fit(tmp_path: Path) -> None:
    correcting: dict[str, Any] = {"correct_labels": True, "num_epochs": 4, "consistency_weight": 0.0, "world_size": 2}
    fitting = ({"norm": "batch"}, {"world_size": 2, "cutmix_probability": 0.0}, {"zero_stage": 2}, correcting)
    for number, settings in enumerate(fitting):
        stage, instance = taught(tmp_path / str(number), **settings)
        stage.check(instance)


def test_its_settings_enter_a_fingerprint_with_it_alone() -> None:
    plain, teacher = (hashed_values(TrainSegmenter(**SETTINGS, objective=o)) for o in ("cross_entropy", "mean_teacher"))
    assert set(teacher) - set(plain) == OWN | {"objective"} and not set(plain) - set(teacher)
    for objective in ("dsrg", "sec", "self_correction"):
        assert not (OWN | CORRECTING) & set(hashed_values(TrainSegmenter(**SETTINGS, objective=objective)))
    correcting = hashed_values(TrainSegmenter(**SETTINGS, objective="mean_teacher", correct_labels=True))
    assert set(correcting) - set(teacher) == CORRECTING
    settings: dict[str, Any] = {"objective": "mean_teacher", "correct_labels": True, "consistency_weight": 0.0}
    assert set(correcting) - set(hashed_values(TrainSegmenter(**SETTINGS, **settings))) == CONSISTENT


def test_labels_alone_may_be_corrected_without_a_second_view(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"correct_labels": True, "consistency_weight": 0.0, "num_epochs": 5}
    stage, instance = taught(tmp_path, **settings, correction_slope=0.4, correction_confidence=0.0)
    images: Any = stage.training_set(instance)
    examples = [images.example(Draw(n, 0)) for n in range(2)]
    assert set(examples[0]) == {"key", "image", "label", "absent"}
    assert set(images.blank()) == {"label", "absent"}
    batch = stage.on_device({n: torch.stack([one[n] for one in examples]) for n in examples[0] if n != "key"})
    torch.manual_seed(1)  # of a network that sees background only, labels stay as they are
    task: Any = stage.task(instance)
    task.early_learning.corrected[:] = True
    output = task(batch)
    assert set(output.terms) == {"cross_entropy", "corrected"}
    assert output.weights == {"cross_entropy": 1.0, "corrected": 0.0}
    assert float(output.terms["corrected"].numerator) > 0, "any confidence is enough"
    task.early_learning.corrected[:] = False
    assert output.tally.shape == (2, 6) and task.early_learning.curves.shape == (5, 6)
    for epoch in range(4):  # 1 - exp(-(t + 1) / 2) is flat enough for a limit of 0.4 from the third epoch on
        task.end_step(epoch, tally=(1e4 * (1 - torch.exp(-torch.tensor(epoch + 1.0) / 2)) * torch.ones(2, 6)).long())
        task.early_learning.counted[1] = 10_000
        task.end_epoch()
    assert task.early_learning.corrected.all()


def test_the_plan_counts_both_views_and_the_teacher() -> None:
    work = FitWork(
        examples=7,
        epochs=1,
        batch_size=2,
        accumulation=1,
        ranks=1,
        load=Load(flops=30.0, passes=3.0),
        precision="fp32",
        loader_workers=0,
        exchanged=0.0,
        storage=Storage(),
        fetched=Storage(),
        start={},
        validation=Load(flops=5.0),
    )

    def planned(**settings: Any) -> FitWork:
        return TrainSegmenter(**SETTINGS, **settings).chosen().with_all_passes(work)

    assert planned() == work
    both = planned(objective="mean_teacher")
    assert (both.load.flops, both.load.passes, both.validation) == (
        pytest.approx(70),
        pytest.approx(4),
        work.validation,
    )
    alone = planned(objective="mean_teacher", consistency_weight=0.0, correct_labels=True)
    assert alone.load.flops == pytest.approx(40)
