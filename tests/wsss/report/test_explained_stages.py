from __future__ import annotations

import numpy as np

from tests.wsss.layers import sample
from wsss.report.explained_stages import Explained


def about(truth: np.ndarray | None) -> Explained:
    seen = sample("a", truth, size=(5, 7))
    return Explained(sample=seen, image=seen.image, name_of=str, records={})


def test_the_score_of_a_label_map() -> None:
    truth = np.zeros((5, 7), np.uint8)
    truth[:, :3] = 2
    label = truth.copy()
    assert about(truth).score(label) == "mean IoU of this image 100.0"
    label[:, 2] = 0  # 10 of 15 and 20 of 25 pixels
    assert about(truth).score(label) == "mean IoU of this image 73.3"
    assert about(None).score(label) == ""


def test_undecided_pixels_are_no_background() -> None:
    """Like evaluate, which measures only label maps without them."""
    truth = np.zeros((5, 7), np.uint8)
    label = truth.copy()
    label[1, :] = 255
    for known in (truth, None):
        assert about(known).score(label) == "20.0 % of the pixels undecided"
    wide = label.astype(np.uint16)
    wide[1, :] = 65535
    assert about(truth).score(wide) == "20.0 % of the pixels undecided"
