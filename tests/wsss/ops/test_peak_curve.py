from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss.ops.confusion import Scores, confusion_matrix
from wsss.ops.peak_curve import peak_counts, peak_winners
from wsss.ops.stochastic_cam import ficklenet_label
from wsss.ops.threshold_curve import class_sums, confusion_at, curve, two_fold_threshold

Image = tuple[Tensor, Tensor, list[int], Tensor]


def images(seed: int) -> list[Image]:
    """Means and peaks that disagree about the best class, peaks exactly on thresholds, and pixels whose peaks are 0."""
    random = torch.Generator().manual_seed(seed)
    made: list[Image] = []
    for n in range(3):
        truth = torch.randint(0, 7, (11 + 2 * n, 17), generator=random, dtype=torch.uint8)
        classes = [5, 2, 3][: n + 1]
        mean = torch.rand(len(classes), *truth.shape, generator=random) * 0.4
        peak = (mean + torch.rand(mean.shape, generator=random) * 0.6).clamp(max=1)
        peak[:, ::3] = (peak[:, ::3] * 256).round() / 256
        mean[:, 1::4], peak[:, 5] = 0.25, 0.0
        peak[0, 0, 3] = 1.0
        truth[:, :2] = 255
        made.append((mean, peak, classes, truth))
    made.append((torch.zeros(0, 5, 7), torch.zeros(0, 5, 7), [], torch.ones(5, 7, dtype=torch.uint8)))
    return made


def counts_of(some: list[Image]) -> Tensor:
    total = torch.zeros(7, 7, 256, dtype=torch.int64)
    for mean, peak, classes, truth in some:
        part = peak_counts(mean, peak_KHW=peak, classes=classes, truth_HW=truth, num_classes=7, ignore_index=255)
        for place, winner in enumerate(peak_winners(classes)):
            total[:, winner] += part[:, place]
    return total


def labelled(some: list[Image], *, theta: float) -> Tensor:
    """The definition in loops: of the classes whose peak is above theta, the one with the highest mean."""
    confusion = torch.zeros(7, 7, dtype=torch.int64)
    for mean, peak, classes, truth in some:
        for i in range(truth.shape[0]):
            for j in range(truth.shape[1]):
                above = [k for k in range(len(classes)) if peak[k, i, j] > theta]
                best = max(above, key=lambda k: (float(mean[k, i, j]), -k), default=None)
                if truth[i, j] != 255:
                    confusion[int(truth[i, j]), 0 if best is None else classes[best]] += 1
    return confusion


def test_by_hand() -> None:
    """Class 2 has the higher mean and the lower peak: it wins up to its peak, class 1 from there to its own."""
    mean, peak = torch.tensor([[[0.1]], [[0.3]]]), torch.tensor([[[0.75]], [[0.5]]])
    counts = peak_counts(
        mean, peak_KHW=peak, classes=[1, 2], truth_HW=torch.tensor([[1]]), num_classes=3, ignore_index=255
    )
    assert counts.shape == (3, 3, 256) and int(counts.sum()) == 1
    assert {tuple(at): int(counts[tuple(at)]) for at in counts.nonzero().tolist()} == {
        (1, 1, 127): 1,
        (1, 0, 191): 1,
        (1, 0, 127): -1,
    }
    by_id = counts[:, [2, 0, 1]]  # columns: background, class 1, class 2
    winners = [int(confusion_at(by_id, threshold_bin=i)[1].argmax()) for i in (0, 127, 128, 191, 192, 255)]
    assert winners == [2, 2, 1, 1, 0, 0], "the peak has to be above theta, not equal to it"


@pytest.mark.parametrize("threshold_bin", [0, 1, 32, 64, 97, 128, 200, 255])
def test_every_theta_equals_the_definition(threshold_bin: int) -> None:
    some = images(1)
    found = confusion_at(counts_of(some), threshold_bin=threshold_bin)
    assert torch.equal(found, labelled(some, theta=threshold_bin / 256))


@pytest.mark.parametrize("threshold_bin", [0, 89, 90, 150])
def test_every_theta_equals_the_labels_of_the_seeds_rule(threshold_bin: int) -> None:
    some = images(2)
    wanted = torch.zeros(7, 7, dtype=torch.int64)
    for mean, peak, classes, truth in some:
        label = ficklenet_label(mean, peak, classes=classes, theta=threshold_bin / 256)
        wanted += confusion_matrix(truth, torch.where(label == 255, 0, label), num_classes=7, ignore_index=255)
    assert torch.equal(confusion_at(counts_of(some), threshold_bin=threshold_bin), wanted)


def test_the_curve_and_the_two_folds_are_those_of_the_labels() -> None:
    fold_a, fold_b = images(1), images(3)
    counts_a, counts_b = counts_of(fold_a), counts_of(fold_b)
    wanted = [Scores.from_confusion(confusion_at(counts_a, threshold_bin=i)).mean_iou for i in range(256)]
    torch.testing.assert_close(curve(counts_a), torch.tensor(wanted, dtype=torch.float64))
    chosen = two_fold_threshold(counts_a, counts_b)
    both = labelled(fold_a, theta=chosen.threshold_from_b) + labelled(fold_b, theta=chosen.threshold_from_a)
    assert torch.equal(chosen.confusion, both)


def test_pixels_are_counted_once_and_sums_of_images_add_up() -> None:
    some = images(1)
    assert int(counts_of(some).sum()) == sum(int((truth != 255).sum()) for *_, truth in some)
    parts = [
        class_sums(
            peak_counts(mean, peak_KHW=peak, classes=ids, truth_HW=truth, num_classes=7, ignore_index=255),
            winners=peak_winners(ids),
        )
        for mean, peak, ids, truth in some
    ]
    assert torch.equal(sum(parts[1:], parts[0]), class_sums(counts_of(some), winners=range(7)))


def test_the_order_of_the_classes_decides_only_between_equal_means() -> None:
    mean, peak, classes, truth = images(1)[2]
    mean = mean + torch.tensor([0.0, 1e-3, 2e-3])[:, None, None]
    turned = [2, 0, 1]
    swapped = (mean[turned], peak[turned], [classes[k] for k in turned], truth)
    assert torch.equal(counts_of([(mean, peak, classes, truth)]), counts_of([swapped]))
    one = torch.full((2, 1, 1), 0.5)
    equal = peak_counts(one, peak_KHW=one, classes=[4, 3], truth_HW=torch.ones(1, 1), num_classes=5, ignore_index=255)
    assert equal.nonzero().tolist() == [[1, 0, 127]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peak_KHW": torch.full((2, 5, 7), 1.5)}, r"outside \[0, 1\]"),
        ({"peak_KHW": torch.zeros(2, 7, 5)}, r"allowed: \[2, 5, 7\]"),
        ({"classes": [0, 2]}, r"different ids from 1\.\.6"),
        ({"truth_HW": torch.full((5, 7), 7)}, r"truth has labels from 7 to 7; allowed: 0\.\.6"),
    ],
)
def test_wrong_input_is_refused(changed: dict[str, object], message: str) -> None:
    maps = torch.zeros(2, 5, 7)
    given = {"peak_KHW": maps, "classes": [1, 2], "truth_HW": torch.zeros(5, 7).long()} | changed
    with pytest.raises(ValueError, match=message):
        peak_counts(maps, num_classes=7, ignore_index=255, **given)  # type: ignore[arg-type]
