"""Maps of the classes of an image, each relative to the others.

Shape letters: K classes, h w pixels.
"""

from __future__ import annotations

from torch import Tensor


def relative_to_others(maps_Khw: Tensor) -> Tensor:
    """M_k / (1 + sum_{j != k} M_j): where several classes are active, all of them become weaker.

    Shapes: [K,h,w] in [0, 1], in and out, K = 0 allowed. Which class is the largest at a position does not change; the
    map of an image's only class stays as it is.

    Source: ours, after the code of Li et al., ICCV 2021 (PMM), whose score is v / (1 + sum v).  Differs: PMM's sum is
    over the positions of the class itself, so that small objects win over large ones; here it is over the other classes
    at the same position.
    """
    return maps_Khw / (1 + maps_Khw.sum(dim=0, keepdim=True) - maps_Khw)
