from __future__ import annotations

import pytest
import torch

from wsss.ops.box_planes import box_planes


def test_background_is_where_no_box_is() -> None:
    boxed = torch.zeros(2, 3, 5, dtype=torch.bool)
    boxed[0, :2], boxed[1, 1:, 3:] = True, True
    planes = box_planes(boxed, classes=[4, 1], num_classes=6)
    assert planes.shape == (6, 3, 5) and planes.dtype == torch.bool
    assert torch.equal(planes[4], boxed[0]) and torch.equal(planes[1], boxed[1])
    assert torch.equal(planes[0], ~(boxed[0] | boxed[1])) and not planes[[2, 3, 5]].any()


def test_an_image_without_boxes_is_background() -> None:
    planes = box_planes(torch.zeros(0, 3, 5, dtype=torch.bool), classes=[], num_classes=3)
    assert planes[0].all() and not planes[1:].any()


@pytest.mark.parametrize("classes", [[1], [0, 1], [1, 3], [1, 2, 2]])
def test_planes_and_classes_that_do_not_fit(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"planes are \[2, 3, 5\] for classes .* of 3; give \[K,h,w\]"):
        box_planes(torch.zeros(2, 3, 5, dtype=torch.bool), classes=classes, num_classes=3)
