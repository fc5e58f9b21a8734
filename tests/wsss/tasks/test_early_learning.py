"""Which classes are corrected, from drawn counts of epochs."""

from __future__ import annotations

import numpy as np
import torch

from wsss.tasks.early_learning import EarlyLearning

NUM_EPOCHS, UNION = 10, 10_000


def early(**changes: float) -> EarlyLearning:
    limits = {"limit": 0.9, "min_confidence": 0.8, **changes}
    return EarlyLearning(num_classes=4, num_epochs=NUM_EPOCHS, **limits)  # type: ignore[arg-type]


def overlap(epoch: int) -> torch.Tensor:
    """Class 0 flattens early, class 1 rises steadily, class 2 is never seen, class 3 is never predicted rightly."""
    fast = 0.8 * (1 - np.exp(-0.5 * (epoch + 1)))
    shared = [round(UNION * fast), round(UNION * 0.06 * (epoch + 1)), 0, 0]
    return torch.tensor([shared, [UNION, UNION, 0, UNION]])


def test_intersection_and_union_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    label, predicted = (torch.randint(0, 4, (2, 5, 7), generator=generator) for _ in range(2))
    label[0, :2] = 255
    found = early().overlap(predicted, label_BHW=label, ignore_index=255)
    for c in range(4):
        shared = union = 0
        for given, seen in zip(label.flatten().tolist(), predicted.flatten().tolist(), strict=True):
            if given != 255:
                shared += given == seen == c
                union += c in (given, seen)
        assert found[:, c].tolist() == [shared, union]


def test_a_class_is_corrected_only_after_its_slope_dropped_and_for_ever() -> None:
    one, decisions = early(), []
    for epoch in range(NUM_EPOCHS):
        for part in (overlap(epoch) // 2, overlap(epoch) - overlap(epoch) // 2):
            one.add(part)  # two steps of an epoch
        one.end_epoch()
        decisions.append(one.corrected.tolist())
        assert not one.counted.any(), "every epoch is counted from 0"
    assert [of_epoch[0] for of_epoch in decisions] == [False] * 5 + [True] * 5
    assert not any(any(of_epoch[1:]) for of_epoch in decisions)
    iou = one.curves
    torch.testing.assert_close(iou[:, 1], 0.06 * torch.arange(1, NUM_EPOCHS + 1).double())
    assert iou[:, 2].isnan().all() and not iou[:, 3].any()


def test_a_decision_is_not_taken_back() -> None:
    one = early()
    one.corrected[1] = True
    for epoch in range(4):
        one.add(overlap(epoch))
        one.end_epoch()
    assert one.corrected.tolist() == [False, True, False, False]


def test_only_labels_of_corrected_classes_are_replaced() -> None:
    one, label = early(), torch.tensor([[[0, 1, 2, 255, 1]]])
    maps = {
        "taught_BHW": torch.tensor([[[1, 2, 3, 1, 2]]]),
        "confidence_BHW": torch.tensor([[[0.9, 0.9, 0.9, 0.9, 0.7]]]),
    }
    assert torch.equal(one.correct(label, **maps, ignore_index=255), label)
    one.corrected[1] = True
    assert one.correct(label, **maps, ignore_index=255).tolist() == [[[1, 2, 2, 255, 1]]]


def test_a_resumed_training_decides_the_same() -> None:
    whole, before = early(), early()
    for epoch in range(NUM_EPOCHS):
        whole.add(overlap(epoch))
        whole.end_epoch()
    for epoch in range(4):
        before.add(overlap(epoch))
        before.end_epoch()
    before.add(overlap(4) // 2)  # in the middle of an epoch
    resumed = early()
    resumed.load_state_dict(before.state_dict())
    resumed.add(overlap(4) - overlap(4) // 2)
    resumed.end_epoch()
    for epoch in range(5, NUM_EPOCHS):
        resumed.add(overlap(epoch))
        resumed.end_epoch()
    state = whole.state_dict()
    for name, value in resumed.state_dict().items():
        assert torch.equal(value.nan_to_num(-1), state[name].nan_to_num(-1)), name
    assert whole.corrected.any()
