from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss.ops.connected_components import Connectivity, connected_components

STEPS: dict[Connectivity, list[tuple[int, int]]] = {
    4: [(-1, 0), (0, -1), (0, 1), (1, 0)],
    8: [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)],
}


def flooded(label_HW: Tensor, connectivity: Connectivity) -> Tensor:
    """The definition: flood every pixel that no earlier flood has reached."""
    values, (height, width) = label_HW.tolist(), label_HW.shape
    number = [[0] * width for _ in range(height)]
    count = 0
    for top in range(height):
        for left in range(width):
            if not values[top][left] or number[top][left]:
                continue
            count += 1
            number[top][left] = count
            waiting = [(top, left)]
            while waiting:
                y, x = waiting.pop()
                for dy, dx in STEPS[connectivity]:
                    v, u = y + dy, x + dx
                    inside = 0 <= v < height and 0 <= u < width
                    if inside and values[v][u] == values[top][left] and not number[v][u]:
                        number[v][u] = count
                        waiting.append((v, u))
    return torch.tensor(number)


def spiral(size: int) -> Tensor:
    """A path of one pixel's width from a corner to the centre, a pixel of background between its turns."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    y, x, dy, dx, stuck = 0, 0, 0, 1, 0
    mask[y, x] = True
    while stuck < 2:
        beyond = y + 2 * dy, x + 2 * dx
        free = 0 <= y + dy < size and 0 <= x + dx < size
        if free and all(0 <= p < size for p in beyond) and mask[beyond]:
            free = False
        if free:
            y, x, stuck = y + dy, x + dx, 0
            mask[y, x] = True
        else:
            dy, dx, stuck = dx, -dy, stuck + 1
    return mask


def snake(height: int, width: int) -> Tensor:
    """Full rows joined at alternating ends."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


def test_by_hand() -> None:
    label = torch.tensor([[[1, 0, 1, 1], [0, 1, 0, 0], [2, 2, 0, 1]]])
    assert connected_components(label, connectivity=8).tolist() == [[[1, 0, 1, 1], [0, 1, 0, 0], [2, 2, 0, 3]]]
    assert connected_components(label, connectivity=4).tolist() == [[[1, 0, 2, 2], [0, 3, 0, 0], [4, 4, 0, 5]]]
    assert connected_components(label > 0, connectivity=8).tolist() == [[[1, 0, 1, 1], [0, 1, 0, 0], [1, 1, 0, 2]]]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("density", [0.3, 0.41, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("num_values", [1, 3])
def test_definition(connectivity: Connectivity, density: float, num_values: int) -> None:
    generator = torch.Generator().manual_seed(int(100 * density) + num_values)
    label = torch.randint(1, num_values + 1, (3, 29, 37), generator=generator)
    label[torch.rand(label.shape, generator=generator) > density] = 0
    found = connected_components(label, connectivity=connectivity)
    assert found.dtype == torch.int64
    for image, wanted in zip(found, label, strict=True):
        assert torch.equal(image, flooded(wanted, connectivity))


@pytest.mark.parametrize("shape", [(2, 1, 13), (2, 11, 1), (3, 1, 1), (0, 5, 7), (2, 0, 7), (2, 7, 0)])
def test_thin_and_empty_shapes(shape: tuple[int, int, int]) -> None:
    mask = torch.ones(shape, dtype=torch.bool)
    assert torch.equal(connected_components(mask, connectivity=8), torch.ones(shape, dtype=torch.int64))


def test_images_of_a_batch_do_not_touch() -> None:
    mask = torch.rand(5, 13, 17, generator=torch.Generator().manual_seed(0)) < 0.5
    alone = [connected_components(image[None], connectivity=8) for image in mask]
    assert torch.equal(connected_components(mask, connectivity=8), torch.cat(alone))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_types(dtype: torch.dtype) -> None:
    label = torch.tensor([[[1, 1, 0, 1]]]).to(dtype)
    if dtype != torch.bool:
        label *= 255 if dtype == torch.uint8 else -7
    assert connected_components(label, connectivity=4).tolist() == [[[1, 1, 0, 2]]]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("name", ["spiral", "snake", "standing snake", "shuffled"])
def test_long_paths_take_few_rounds(name: str, connectivity: Connectivity, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spiral of thousands of pixels is one component, found in a number of rounds that grows like a logarithm."""
    mask = {
        "spiral": lambda: spiral(131),
        "snake": lambda: snake(131, 67),
        "standing snake": lambda: snake(131, 67).T.contiguous(),
        "shuffled": lambda: torch.rand(131, 67, generator=torch.Generator().manual_seed(1)) < 0.41,
    }[name]()
    rounds = 0
    hook = Tensor.scatter_reduce_

    def counted(*args: object, **kwargs: object) -> Tensor:
        nonlocal rounds
        rounds += 1
        return hook(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Tensor, "scatter_reduce_", counted)
    found = connected_components(mask[None], connectivity=connectivity)[0]
    assert torch.equal(found, flooded(mask, connectivity))
    if name != "shuffled":
        assert mask.sum() > 4000 and found.max() == 1
    assert 0 < rounds <= 2 * math.log2(int(mask.sum()))


def test_turning_an_image_keeps_what_is_together() -> None:
    mask = torch.rand(1, 31, 43, generator=torch.Generator().manual_seed(2)) < 0.42
    found = connected_components(mask, connectivity=8)
    turned = connected_components(mask.flip(1, 2), connectivity=8).flip(1, 2)
    pairs = torch.stack([found.flatten(), turned.flatten()]).unique(dim=1)
    assert pairs.shape[1] == found.max() + 1 == turned.max() + 1


@pytest.mark.parametrize("label", [torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.bool), torch.zeros(1, 3, 5)])
def test_what_are_no_labels_is_refused(label: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels are torch\.\w+ of shape \[.*give a mask or whole numbers \[B,H,W\]"):
        connected_components(label, connectivity=8)


def test_other_connectivities_are_refused() -> None:
    with pytest.raises(ValueError, match=r"connectivity = 6; allowed are 4 \(edges\) and 8"):
        connected_components(torch.zeros(1, 3, 5, dtype=torch.bool), connectivity=6)  # type: ignore[arg-type]
