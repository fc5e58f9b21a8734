from __future__ import annotations

import pytest
import torch

from wsss.ops.confusion import confusion_matrix
from wsss.ops.present_classes import present_confusion, present_labels

C, IGNORE = 920, 65_535


def maps(seed: int, *, num_present: int, size: tuple[int, int] = (29, 31)) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth and prediction, int32, of so many of 920 classes; some of the truth is ignored."""
    random = torch.Generator().manual_seed(seed)
    ids = torch.randperm(C, generator=random)[:num_present].to(torch.int32)
    truth, prediction = (ids[torch.randint(0, num_present, size, generator=random)] for _ in range(2))
    truth[torch.rand(size, generator=random) < 0.2] = IGNORE
    return truth, prediction


def test_by_hand() -> None:
    truth = torch.tensor([[300, 0, 65_535], [255, 255, 300]], dtype=torch.int32)
    found = present_labels(truth, num_classes=C, ignore_index=IGNORE, also=[7])
    assert found.ids.tolist() == [0, 7, 255, 300] and found.ignore_index == 4
    assert found.maps[0].tolist() == [[3, 0, 4], [2, 2, 3]] and found.maps[0].dtype == torch.uint8


@pytest.mark.parametrize("num_present", [1, 3, 254, 255, 397])
def test_names_are_given_back(num_present: int) -> None:
    truth, prediction = maps(num_present, num_present=num_present)
    found = present_labels(truth, prediction, num_classes=C, ignore_index=IGNORE)
    names = torch.cat([found.ids, torch.tensor([IGNORE])])
    for before, after in zip((truth, prediction), found.maps, strict=True):
        assert torch.equal(names[after.long()], before.long())
    assert found.ids[0] == 0 and torch.equal(found.ids, found.ids.unique())


@pytest.mark.parametrize("num_present", [2, 300])
def test_the_confusion_is_part_of_the_whole(num_present: int) -> None:
    truth, prediction = maps(9, num_present=num_present)
    found = present_confusion(truth, prediction, num_classes=C, ignore_index=IGNORE)
    wanted = torch.zeros(C, C, dtype=torch.int64)
    for row in range(truth.shape[0]):
        for column in range(truth.shape[1]):
            if truth[row, column] != IGNORE:
                wanted[int(truth[row, column]), int(prediction[row, column])] += 1
    whole = torch.zeros(C, C, dtype=torch.int64)
    whole[found.ids[:, None], found.ids] = found.matrix
    assert torch.equal(whole, wanted)
    assert torch.equal(confusion_matrix(truth, prediction, num_classes=C, ignore_index=IGNORE), wanted)


def test_what_is_refused() -> None:
    truth, prediction = maps(1, num_present=5, size=(3, 7))
    for bad, words in ((920, r"from \d+ to 920; allowed: 0\.\.919"), (-1, "from -1 to")):
        wrong = prediction.clone()
        wrong[1, 2] = bad
        with pytest.raises(ValueError, match=words):
            present_labels(truth, wrong, num_classes=C, ignore_index=IGNORE)
    with pytest.raises(ValueError, match="resize the prediction to the truth"):
        present_confusion(truth, prediction.t(), num_classes=C, ignore_index=IGNORE)
    truth[0, 0], prediction[0, 0] = 4, IGNORE
    with pytest.raises(ValueError, match=r"the prediction has 65535 \(undecided\) where the truth has not"):
        present_confusion(truth, prediction, num_classes=C, ignore_index=IGNORE)
    with pytest.raises(ValueError, match=r"the prediction has 65535 \(undecided\); decide every pixel"):
        confusion_matrix(truth, prediction, num_classes=C, ignore_index=IGNORE)
