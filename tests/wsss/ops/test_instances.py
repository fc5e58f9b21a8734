from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from wsss.ops.instances import Instances, cut_instances, displacement_groups, group_walk, refined_centroids
from wsss.ops.random_walk import random_walk

WALK = {"radius": 3, "beta": 2.0, "num_steps_log2": 3}
CENTRES, DISC = ((9, 8), (12, 25)), 6
SIZE = (23, 37)


def discs() -> tuple[Tensor, Tensor]:
    """Two discs: which one a pixel belongs to (0 none), and a field that points exactly at its centre."""
    row, column = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    disc_hw, field_2hw = torch.zeros(SIZE, dtype=torch.int64), torch.zeros(2, *SIZE)
    for number, (y, x) in enumerate(CENTRES, start=1):
        inside_hw = (row - y) ** 2 + (column - x) ** 2 <= DISC**2
        disc_hw[inside_hw] = number
        field_2hw[:, inside_hw] = torch.stack([y - row, x - column]).float()[:, inside_hw]
    return disc_hw, field_2hw


def smooth_field(*size: int, seed: int) -> Tensor:
    """A random field of a few grid pixels, float64."""
    coarse = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 2 * torch.nn.functional.interpolate(coarse, size=size, mode="bicubic")


def followed(field_2hw: Tensor, y: float, x: float, num_steps: int) -> tuple[int, int]:
    """The definition: one pixel's way through the field."""
    _, h, w = field_2hw.shape
    for _ in range(num_steps):
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
        down, across = y - top, x - left
        step = [
            (1 - down) * (1 - across) * field[top, left].item()
            + (1 - down) * across * field[top, right].item()
            + down * (1 - across) * field[bottom, left].item()
            + down * across * field[bottom, right].item()
            for field in field_2hw
        ]
        y, x = min(max(y + step[0], 0), h - 1), min(max(x + step[1], 0), w - 1)
    return round(y), round(x)


def found(scores: Tensor, groups: Tensor, **settings: float) -> Instances:
    """Instances of a picture without boundaries, at four times the grid's size."""
    size = (4 * groups.shape[0], 4 * groups.shape[1])
    edge_hw = torch.zeros(groups.shape)
    walked = group_walk(scores, groups_hw=groups, edge_hw=edge_hw, size=size, background_threshold=0.25, **WALK)  # type: ignore[arg-type]
    min_area = settings.get("min_area", 16.0)
    return cut_instances(
        walked.scores, classes_P=walked.classes, size=size, background_threshold=0.25, min_area=min_area
    )


def test_every_pixel_arrives_at_its_centre_in_one_step() -> None:
    disc_hw, field_2hw = discs()
    arrived_2hw = refined_centroids(field_2hw[None], num_steps=300)[0]
    for number, centre in enumerate(CENTRES, start=1):
        assert (arrived_2hw[:, disc_hw == number] == torch.tensor(centre)[:, None]).all()
    row, column = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    assert torch.equal(arrived_2hw[:, disc_hw == 0], torch.stack([row, column])[:, disc_hw == 0])


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7, 40])
def test_centroids_as_defined(num_steps: int) -> None:
    field_B2hw = smooth_field(13, 19, seed=num_steps)
    arrived_B2hw = refined_centroids(field_B2hw, num_steps=num_steps)
    assert arrived_B2hw.dtype == torch.int64
    for field_2hw, arrived_2hw in zip(field_B2hw, arrived_B2hw, strict=True):
        expected = [[followed(field_2hw, y, x, num_steps) for x in range(19)] for y in range(13)]
        assert arrived_2hw.permute(1, 2, 0).tolist() == [[list(place) for place in row] for row in expected]


def test_a_field_that_points_out_ends_at_the_border() -> None:
    field_12hw = torch.full((1, 2, 7, 11), 3.0)
    field_12hw[:, 1] = -2.0
    arrived_12hw = refined_centroids(field_12hw, num_steps=20)
    assert (arrived_12hw[0, 0] == 6).all() and (arrived_12hw[0, 1] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1)])
def test_grids_one_pixel_wide(size: tuple[int, int]) -> None:
    arrived_12hw = refined_centroids(torch.full((1, 2, *size), 0.6), num_steps=50)
    assert (arrived_12hw[0].flatten(1) == torch.tensor(size)[:, None] - 1).all()


def test_single_precision_reaches_the_same_pixels() -> None:
    disc_hw, field_2hw = discs()
    field_12hw = (0.1 * field_2hw + 0.01)[None]
    exact, single, half = (
        refined_centroids(field_12hw.to(dtype), num_steps=100)
        for dtype in (torch.float64, torch.float32, torch.float16)
    )
    assert torch.equal(exact, single)
    assert (exact - half)[..., disc_hw > 0].abs().max() <= 1


def test_groups_as_defined() -> None:
    field_B2hw = smooth_field(13, 19, seed=3)
    groups_Bhw = displacement_groups(field_B2hw, centroid_threshold=0.9, num_steps=25)
    centroid_Bhw = displacement_groups(field_B2hw, centroid_threshold=0.9, num_steps=0)
    weak_Bhw = field_B2hw.square().sum(1).sqrt() < 0.9
    assert torch.equal(centroid_Bhw > 0, weak_Bhw) and centroid_Bhw.max() > 2 and not weak_Bhw.all()
    row_Bhw, column_Bhw = refined_centroids(field_B2hw, num_steps=25).unbind(1)
    for image in range(2):
        for y in range(13):
            for x in range(19):
                place = (image, row_Bhw[image, y, x], column_Bhw[image, y, x])
                assert groups_Bhw[image, y, x] == centroid_Bhw[place]


def test_images_of_a_batch_do_not_touch_each_other() -> None:
    field_B2hw = smooth_field(13, 19, seed=4)
    together = displacement_groups(field_B2hw, centroid_threshold=0.9, num_steps=25)
    alone = [displacement_groups(field[None], centroid_threshold=0.9, num_steps=25)[0] for field in field_B2hw]
    assert torch.equal(together, torch.stack(alone))


def test_two_discs_of_one_class_are_two_instances() -> None:
    disc_hw, field_2hw = discs()
    field_2hw[1, disc_hw == 0] = 9.0  # else the background is short of displacement, and joins the centres' edge
    groups_hw = displacement_groups(field_2hw[None], centroid_threshold=2.5, num_steps=300)[0]
    inside = disc_hw > 0
    assert groups_hw[inside].unique().numel() == 2 and (groups_hw[inside] > 0).all()
    instances = found(inside.float()[None], groups_hw)
    assert instances.classes.tolist() == [0, 0]
    assert (instances.scores > 0.5).all() and instances.scores.max() <= 1
    for number, (y, x) in enumerate(CENTRES, start=1):
        assert instances.map[4 * y + 2, 4 * x + 2] == number


def test_touching_discs_are_two_instances_only_with_their_groups() -> None:
    """One blob of one class: only the groups tell that it is two objects."""
    map_1hw = torch.ones(1, 11, 13)
    groups_hw = torch.ones(11, 13, dtype=torch.int64)
    assert found(map_1hw, groups_hw).classes.tolist() == [0]
    groups_hw[:, 7:] = 5
    apart = found(map_1hw, groups_hw)
    assert apart.classes.tolist() == [0, 0]
    assert apart.map[22, 2] == 1 and apart.map[22, 50] == 2


def test_one_group_of_two_classes_is_two_instances() -> None:
    scores_Khw = torch.zeros(2, 11, 13)
    scores_Khw[0, :, :6], scores_Khw[1, :, 6:] = 1.0, 0.9
    instances = found(scores_Khw, torch.ones(11, 13, dtype=torch.int64))
    assert instances.classes.tolist() == [0, 1]
    assert instances.map[20, 0] == 1 and instances.map[20, 51] == 2


def test_walk_as_defined() -> None:
    generator = torch.Generator().manual_seed(7)
    scores_Khw = torch.rand(3, 11, 17, generator=generator) ** 2
    edge_hw = torch.rand(11, 17, generator=generator)
    groups_hw = torch.randint(0, 23, (11, 17), generator=generator) * 3  # 69 pairs: more than are walked at once
    size = (43, 65)  # not a multiple of 4: the last cells are cut
    walked = group_walk(
        scores_Khw,
        groups_hw=groups_hw,
        edge_hw=edge_hw,
        size=size,
        background_threshold=0.25,
        **WALK,  # type: ignore[arg-type]
    )
    pairs = [(k, g) for k in range(3) for g in groups_hw.unique().tolist()]
    planes = [
        random_walk((scores_Khw[k] * (groups_hw == g))[None], edge_hw=edge_hw, **WALK)[0]  # type: ignore[arg-type]
        for k, g in pairs
    ]
    fine = functional.interpolate(torch.stack(planes)[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    best = fine[:, : size[0], : size[1]].max().item()
    high = [place for place, plane in enumerate(planes) if plane.max() > 0.25 * best]
    assert 10 < len(high) < len(pairs)
    assert walked.classes.tolist() == [pairs[place][0] for place in high]
    torch.testing.assert_close(walked.scores, torch.stack([planes[place] for place in high]) / best)


def test_pairs_that_cannot_win_are_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(scores: Tensor, **settings: object) -> Tensor:
        made.append(len(scores))
        return random_walk(scores, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("wsss.ops.instances.random_walk", counted)
    groups_hw = torch.arange(11 * 13).view(11, 13)
    groups_hw[:5] = 0
    map_1hw = torch.where(groups_hw == 0, 1.0, 0.1)[None]
    found(map_1hw, groups_hw)
    assert made == [16], "of 79 groups, 63 start below a quarter of what the largest keeps"


def test_fragments_are_no_instances() -> None:
    scores_Phw = torch.zeros(2, 8, 10)
    scores_Phw[0, 0:2, 0:2], scores_Phw[0, 5, 5], scores_Phw[1, 5:7, 7:9] = 0.5, 0.9, 0.7
    cut = {"classes_P": torch.tensor([1, 4]), "size": (8, 10), "background_threshold": 0.25}
    four = cut_instances(scores_Phw, min_area=4, **cut)  # type: ignore[arg-type]
    assert four.classes.tolist() == [1, 4] and four.scores.tolist() == pytest.approx([0.5, 0.7])
    assert four.map[0, 1] == 1 and four.map[5, 5] == 0 and four.map[6, 8] == 2
    every = cut_instances(scores_Phw, min_area=1, **cut)  # type: ignore[arg-type]
    assert every.classes.tolist() == [1, 1, 4] and every.scores.tolist() == pytest.approx([0.5, 0.9, 0.7])
    assert every.map[5, 5] == 2
    none = cut_instances(scores_Phw, min_area=5, **cut)  # type: ignore[arg-type]
    assert len(none.classes) == len(none.scores) == 0 and not none.map.any()


@pytest.mark.parametrize("num_classes", [0, 2])
def test_nothing_but_background(num_classes: int) -> None:
    groups_hw = torch.arange(35).view(5, 7)
    instances = found(torch.zeros(num_classes, 5, 7), groups_hw)
    assert instances.map.shape == (20, 28) and not instances.map.any()
    assert instances.classes.dtype == torch.int64 and len(instances.classes) == len(instances.scores) == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"displacement has shape \(2, 5, 7\) and num_steps is 3"):
        refined_centroids(torch.zeros(2, 5, 7), num_steps=3)
    with pytest.raises(ValueError, match=r"num_steps is -1; they must be .* 0 or more \(published: 300\)"):
        refined_centroids(torch.zeros(1, 2, 5, 7), num_steps=-1)
    with pytest.raises(ValueError, match=r"centroid_threshold is 0; it must be above 0 \(published: 2.5\)"):
        displacement_groups(torch.zeros(1, 2, 5, 7), centroid_threshold=0, num_steps=3)
    with pytest.raises(ValueError, match=r"groups are \(5, 7\) and the edge \(7, 5\)"):
        group_walk(
            torch.zeros(1, 5, 7),
            groups_hw=torch.zeros(5, 7),
            edge_hw=torch.zeros(7, 5),
            size=(20, 28),
            background_threshold=0.25,
            **WALK,  # type: ignore[arg-type]
        )
