from __future__ import annotations

import pytest
import torch

from wsss.tasks.mixing import Mixing, mix


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    image = torch.arange(4.0)[:, None, None, None].expand(4, 3, 20, 30).clone()  # image i is i everywhere
    target = torch.eye(4)
    return image, target, torch.ones(4, 4)


def mixed(mixing: Mixing, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return mix(*batch(), mixing=mixing, alpha=1.0, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_targets_have_the_share_that_the_pixels_have(mixing: Mixing) -> None:
    seen = set()
    for seed in range(20):
        image, target, _ = mixed(mixing, seed)
        for number in range(4):
            torch.testing.assert_close(target[number].sum(), torch.tensor(1.0))
            mean = (target[number] * torch.arange(4.0)).sum()
            torch.testing.assert_close(image[number].mean(), mean, rtol=1e-4, atol=1e-5)
        values = {len(image[number].unique()) for number in range(4)}
        seen |= values
    assert seen == ({1} if mixing == "mixup" else {2}), "cutmix shows pixels of two images, mixup of neither"


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_the_same_seed_mixes_the_same(mixing: Mixing) -> None:
    for first, second in zip(mixed(mixing, 3), mixed(mixing, 3), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(mixed(mixing, 3)[0], mixed(mixing, 4)[0])


def test_classes_unknown_of_either_image_are_unknown() -> None:
    image, target, known = batch()
    known[0, 2] = 0
    _, _, found = mix(image, target, known, mixing="mixup", alpha=1.0, generator=torch.Generator().manual_seed(1))
    assert found[0, 2] == 0 and int((found == 0).sum()) == 2
    for seed in range(30):  # two images are always mixed, with one another
        small = mix(*(x[:2] for x in batch()), mixing="mixup", alpha=1.0, generator=torch.Generator().manual_seed(seed))
        assert ((small[1] > 0).sum(1) == 2).all()


def test_nothing_to_mix() -> None:
    image, target, known = batch()
    for arguments in ((image, target, known), (image[:1], target[:1], known[:1])):
        mixing: Mixing = "none" if len(arguments[0]) > 1 else "cutmix"
        found = mix(*arguments, mixing=mixing, alpha=0.2, generator=torch.Generator())
        assert all(a is b for a, b in zip(found, arguments, strict=True))
