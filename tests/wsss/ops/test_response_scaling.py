from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.response_scaling import response_uncertainty


def highest(share_SLHW: Tensor) -> Tensor:
    return share_SLHW.argmax(1)


def uncertainty(*shares: list[float], scales: tuple[float, ...]) -> list[float]:
    """Of pixels in a row, each with its shares of the labels."""
    share_LHW = torch.tensor(shares).T[:, None]
    found_HW: Tensor = response_uncertainty(share_LHW, scales=scales, decide=highest)
    assert found_HW.dtype == torch.float32
    return found_HW[0].tolist()


def test_by_hand() -> None:
    """The share .6 of the second label becomes .77 and .36, that of the first pixel's first label .63 and .16; in the
    second pixel neither scale changes a decision."""
    assert uncertainty([0.4, 0.6], [0.1, 0.9], scales=(0.5, 2.0)) == [1.0, 0.0]


def test_the_largest_variance_of_an_odd_number_of_scales_is_1() -> None:
    """Of three scales one decides otherwise, which is as divided as three can be; of four, one in four is 3/4."""
    assert uncertainty([0.4, 0.6], scales=(1.0, 1.1, 2.0)) == [1.0]
    assert uncertainty([0.4, 0.6], scales=(1.0, 1.1, 1.2, 2.0)) == [0.75]


def test_definition() -> None:
    generator = torch.Generator().manual_seed(3)
    share_LHW = torch.rand(4, 5, 7, generator=generator)
    share_LHW /= share_LHW.sum(0)
    scales = (0.2, 0.5, 1.5, 3.0, 5.0)
    found_HW = response_uncertainty(share_LHW, scales=scales, decide=highest)
    seen = set()
    for y in range(5):
        for x in range(7):
            variances = []
            for label in range(4):
                won = []
                for scale in scales:
                    values = share_LHW[:, y, x].tolist()
                    values[label] **= scale
                    won.append(max(range(4), key=values.__getitem__) == label)
                mean = sum(won) / len(won)
                variances.append(sum((one - mean) ** 2 for one in won) / len(won))
            assert float(found_HW[y, x]) == pytest.approx(max(variances) / (6 / 25))
            seen.add(round(max(variances), 3))
    assert len(seen) > 1


def test_invariants() -> None:
    share_LHW = torch.rand(3, 11, 7, generator=torch.Generator().manual_seed(4))
    found_HW = response_uncertainty(share_LHW, scales=(0.3, 2.0, 4.0), decide=highest)
    other_HW = response_uncertainty(share_LHW[[2, 0, 1]], scales=(4.0, 0.3, 2.0), decide=highest)
    assert torch.equal(found_HW, other_HW), "neither the order of labels nor that of scales matters"
    assert found_HW.min() == 0 and found_HW.max() == 1
    assert not response_uncertainty(share_LHW[:1], scales=(0.3, 2.0), decide=highest).any(), "one label, no doubt"


def test_one_label_at_a_time_is_scaled_and_all_scales_come_together() -> None:
    share_LHW = torch.tensor([0.25, 0.25, 0.5])[:, None, None].expand(3, 2, 2)
    given: list[Tensor] = []

    def decide(share_SLHW: Tensor) -> Tensor:
        given.append(share_SLHW)
        return highest(share_SLHW)

    response_uncertainty(share_LHW, scales=(0.5, 2.0), decide=decide)
    assert [one[:, :, 0, 0].tolist() for one in given] == [
        [[0.5, 0.25, 0.5], [0.0625, 0.25, 0.5]],
        [[0.25, 0.5, 0.5], [0.25, 0.0625, 0.5]],
        [[0.25, 0.25, pytest.approx(0.5**0.5)], [0.25, 0.25, 0.25]],
    ]


@pytest.mark.parametrize(("shape", "scales"), [((2, 3, 5), (2.0,)), ((2, 3, 5), (0.0, 2.0)), ((3, 5), (0.5, 2.0))])
def test_bad_input_is_refused(shape: tuple[int, ...], scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"shares are \[.*\] and scales \[.*\]; give shares \[L,H,W\] and two or more"):
        response_uncertainty(torch.rand(shape), scales=scales, decide=highest)
