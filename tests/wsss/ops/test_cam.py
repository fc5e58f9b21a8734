from __future__ import annotations

import pytest
import torch

from wsss.ops.cam import class_activation_map, normalise_per_class


def test_by_hand() -> None:
    features = torch.tensor([[[1.0, 2.0, 0.0]], [[3.0, -1.0, 1.0]]])
    weights = torch.tensor([[1.0, 1.0], [9.0, 9.0], [1.0, -2.0]])
    maps = class_activation_map(features, weights_CD=weights, classes=[3, 1])
    assert torch.equal(maps, torch.tensor([[[0.0, 4.0, 0.0]], [[4.0, 1.0, 1.0]]]))


def test_definition_and_batch() -> None:
    features = torch.randn(2, 5, 7, 11, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(13, 5, generator=torch.Generator().manual_seed(2))
    classes = [13, 2, 6]
    maps = class_activation_map(features, weights_CD=weights, classes=classes)
    assert maps.shape == (2, 3, 7, 11)
    for b in range(2):
        single = class_activation_map(features[b], weights_CD=weights, classes=classes)
        for k, class_id in enumerate(classes):
            wanted = sum(weights[class_id - 1, d] * features[b, d] for d in range(5)).clamp(min=0)
            torch.testing.assert_close(maps[b, k], wanted)
            torch.testing.assert_close(single[k], wanted)


def test_global_average_of_the_unclipped_map_is_the_logit() -> None:
    features = torch.rand(5, 7, 11, generator=torch.Generator().manual_seed(3))
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(4))
    maps = class_activation_map(features, weights_CD=weights, classes=[1, 2, 3])
    torch.testing.assert_close(maps.mean(dim=(1, 2)), weights @ features.mean(dim=(1, 2)))


def test_no_class_gives_no_map() -> None:
    assert class_activation_map(torch.rand(5, 7, 11), weights_CD=torch.rand(3, 5), classes=[]).shape == (0, 7, 11)


def test_normalise_divides_each_map_by_its_own_maximum() -> None:
    maps = torch.tensor([[[1.0, 4.0]], [[0.5, 0.25]], [[0.0, 0.0]]])
    wanted = torch.tensor([[[1 / 4.5, 4 / 4.5]], [[0.5, 0.25]], [[0.0, 0.0]]])
    torch.testing.assert_close(normalise_per_class(maps, eps=0.5), wanted)
    assert float(normalise_per_class(maps).amax()) < 1


@pytest.mark.parametrize("classes", [[0], [4], [2, 255]])
def test_class_ids_outside_the_classifier_are_refused(classes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"allowed: class ids 1\.\.3"):
        class_activation_map(torch.rand(5, 7, 11), weights_CD=torch.rand(3, 5), classes=classes)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"features are \[6, 7, 11\].*D = 5"):
        class_activation_map(torch.rand(6, 7, 11), weights_CD=torch.rand(3, 5), classes=[1])
