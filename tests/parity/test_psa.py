"""AffinityNet against its public code: pair labels, affinities, losses and their gradient, and the walk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.psa_pairs import published_pairs
from wsss.losses.affinity_displacement import BACKGROUND, DIFFERENT, FOREGROUND, pair_kinds
from wsss.losses.feature_affinity import feature_affinity_sums
from wsss.losses.masked_mean import masked_mean
from wsss.ops.feature_affinity import feature_affinity, interior_feature_affinity
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.pixel_pairs import half_plane_offsets
from wsss.ops.random_walk import propagate
from wsss.ops.seeds import exponent_scores, pooled_exponent_seeds

GOLDEN = np.load(Path(__file__).parent / "data" / "psa.npz", allow_pickle=False)
CASES = range(int(GOLDEN["n_cases"]))
RADIUS = 5


def golden(case: int, name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[f"c{case}_{name}"])


@pytest.mark.parametrize("case", CASES)
def test_labels(case: int) -> None:
    """Scores are pooled by 8 before the comparison; the rest of the crop is padding without a score."""
    cam, wanted = golden(case, "label_cam"), golden(case, "aff_label")
    top, left, height, width = golden(case, "label_region").tolist()
    crops = []
    for name in ("low", "high"):
        scores = exponent_scores(cam, exponent=float(golden(case, f"label_{name}_alpha")))
        crop = torch.zeros(len(scores), 8 * wanted.shape[0], 8 * wanted.shape[1])
        crop[:, top : top + height, left : left + width] = scores
        crops.append(crop)
    classes = list(range(1, len(cam) + 1))
    found = pooled_exponent_seeds(crops[0], little_LHW=crops[1], classes=classes, stride=8)
    assert torch.equal(found, wanted)
    assert len(wanted.unique()) > 2


@pytest.mark.parametrize("case", CASES)
def test_pair_labels(case: int) -> None:
    assert int(golden(case, "radius")) == RADIUS
    kind_PN = pair_kinds(golden(case, "aff_label")[None], radius=RADIUS, num_classes=2).flatten(1)
    for name, kind in (("fg_pos_label", FOREGROUND), ("neg_label", DIFFERENT), ("bg_pos_label", BACKGROUND)):
        assert torch.equal((kind_PN == kind).to(torch.uint8), golden(case, name)), name


@pytest.mark.parametrize("case", CASES)
def test_affinities_losses_and_gradient(case: int) -> None:
    features = golden(case, "feature").double().requires_grad_()
    affinity_PBuv = interior_feature_affinity(features, radius=RADIUS)
    torch.testing.assert_close(affinity_PBuv.flatten(1).float(), golden(case, "aff_pairs")[0], rtol=1e-5, atol=1e-6)
    kind_PBuv = pair_kinds(golden(case, "aff_label")[None], radius=RADIUS, num_classes=2)
    sums = feature_affinity_sums(affinity_PBuv, kind_PBuv=kind_PBuv)
    bg, fg, neg = (masked_mean(term) for term in sums)
    for name, value in (("bg_loss", bg), ("fg_loss", fg), ("neg_loss", neg), ("total_loss", bg / 4 + fg / 4 + neg / 2)):
        assert float(value) == pytest.approx(float(golden(case, f"{name}_f64")), rel=1e-5), name
    (gradient,) = torch.autograd.grad(bg / 4 + fg / 4 + neg / 2, features)
    wanted = golden(case, "grad_feature_f64").double()
    assert float((gradient - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_walk(case: int) -> None:
    beta, steps = float(golden(case, "rw_beta")), int(golden(case, "rw_logt"))
    values_Phw = published_pairs(golden(case, "feature")[0], radius=RADIUS).pow(beta)
    walked = propagate(
        golden(case, "rw_pooled").double(),
        affinity_Phw=values_Phw,
        radius=RADIUS,
        num_steps_log2=steps,
        tolerance=1e-12,
    )
    wanted = golden(case, "rw_f64")
    assert float((walked - wanted).abs().max()) < 1e-5 * float(wanted.max())
    height, width = golden(case, "rw_label").shape
    padded = (8 * walked.shape[1], 8 * walked.shape[2])
    index_HW = resize_bilinear(walked, size=padded).argmax(0)[:height, :width]
    ids = torch.tensor([0, *(golden(case, "rw_keys0") + 1).tolist()])
    sure = golden(case, "rw_label_sure")
    assert sure.float().mean() > 0.9
    assert torch.equal(ids[index_HW][sure], golden(case, "rw_label").long()[sure])


def test_gradient_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: interior_feature_affinity(x, radius=3), (features,))


def test_all_pairs_of_the_image() -> None:
    features_Dhw = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found_Phw = feature_affinity(features_Dhw, radius=3)
    for plane, (dy, dx) in zip(found_Phw, half_plane_offsets(3), strict=True):
        for y in range(5):
            for x in range(7):
                inside = 0 <= y + dy < 5 and 0 <= x + dx < 7
                wanted = 0.0
                if inside:
                    wanted = float(torch.exp(-(features_Dhw[:, y, x] - features_Dhw[:, y + dy, x + dx]).abs().mean()))
                assert float(plane[y, x]) == pytest.approx(wanted)
