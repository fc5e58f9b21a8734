from __future__ import annotations

import numpy as np
import pytest

from wsss.stages.classifier.classification_metrics import classification_metrics


def by_hand(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Precision at every image that shows the class, in falling order of score; and F1 at one half."""
    order = np.argsort(-scores)
    hits = truth[order].cumsum() / np.arange(1, len(truth) + 1)
    found = scores > 0.5
    true_positives = (found & truth).sum()
    return float(hits[truth[order]].mean()), float(2 * true_positives / (found.sum() + truth.sum()))


@pytest.mark.parametrize("num_classes", [1, 3])
def test_by_definition(num_classes: int) -> None:
    generator = np.random.default_rng(num_classes)
    scores, truth = generator.random((17, num_classes)), generator.random((17, num_classes)) < 0.4
    precision_C, f1_C, micro = classification_metrics(scores, truth_NC=truth)
    for c in range(num_classes):
        assert (precision_C[c], f1_C[c]) == pytest.approx(by_hand(scores[:, c], truth[:, c]))
    assert micro == pytest.approx(by_hand(scores.ravel(), truth.ravel())[1])


def test_class_that_no_image_shows_has_no_score() -> None:
    truth = np.zeros((5, 2), dtype=bool)
    truth[1, 0] = True
    precision_C, f1_C, _ = classification_metrics(np.random.default_rng(0).random((5, 2)), truth_NC=truth)
    assert np.isnan(precision_C[1]) and np.isnan(f1_C[1]) and precision_C[0] > 0


def test_pairs_that_nobody_looked_at_count_for_nothing() -> None:
    generator = np.random.default_rng(1)
    scores, truth = generator.random((40, 3)), generator.random((40, 3)) < 0.4
    known = generator.random((40, 3)) < 0.6
    precision, f1, micro = classification_metrics(scores, truth_NC=truth, known_NC=known)
    for c in range(3):
        rows = known[:, c]
        alone = classification_metrics(scores[rows][:, c : c + 1], truth_NC=truth[rows][:, c : c + 1])
        assert (precision[c], f1[c]) == pytest.approx((alone[0][0], alone[1][0]))
    changed = classification_metrics(np.where(known, scores, 0.5), truth_NC=truth | ~known, known_NC=known)
    np.testing.assert_array_equal(precision, changed[0])
    assert micro == changed[2] != classification_metrics(scores, truth_NC=truth)[2]
    known[:, 1] &= ~truth[:, 1]
    assert np.isnan(classification_metrics(scores, truth_NC=truth, known_NC=known)[0]).tolist() == [False, True, False]
