from __future__ import annotations

import itertools

import pytest
import torch

from tuning.dimensions import Cases, Choices, Range
from tuning.importance import importance
from tuning.search_space import SearchSpace
from tuning.sweep_result import Trial

SPACE = SearchSpace(
    {
        "a.x": Range(low=0.0, high=1.0, step=0.25),
        "a.y": Choices(choices=([1], [2, 3])),
        "views": Cases(cases={"one": {"b.z": 1}, "two": {"b.z": 2}}),
    }
)


def trial(number: int, values: dict[str, object], share: float) -> Trial:
    """A trial whose mean IoU over two classes is `share`."""
    right = round(1000 * share)
    fold = torch.tensor([[right, 0], [0, right]]) + torch.tensor([[0, 500 - right // 2], [500 - right // 2, 0]])
    return Trial(number=number, values=values, state="done", folds=(fold, fold))


def trials_of(score: dict[str, float], *, offset: float = 0.3) -> list[Trial]:
    found = []
    for number, (x, y, views) in enumerate(
        itertools.product([0.0, 0.25, 0.5, 0.75, 1.0], [[1], [2, 3]], ["one", "two"])
    ):
        value = offset + score["a.x"] * x + score["a.y"] * (len(y) - 1) + score["views"] * (views == "two")
        found.append(trial(number, {"a.x": x, "a.y": y, "views": views}, value))
    return found


def test_the_setting_that_makes_the_difference_is_first_and_shares_add_up_to_one() -> None:
    shares = importance(SPACE, trials_of({"a.x": 0.4, "a.y": 0.02, "views": 0.1}), seed=1)
    assert list(shares) == ["a.x", "views", "a.y"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["a.x"] > 0.7


def test_cases_and_lists_count_as_one_setting_each() -> None:
    shares = importance(SPACE, trials_of({"a.x": 0.0, "a.y": 0.0, "views": 0.3}), seed=1)
    assert shares["views"] > 0.95


def test_nothing_is_said_of_too_few_or_equal_results() -> None:
    assert importance(SPACE, trials_of({"a.x": 0.4, "a.y": 0.0, "views": 0.0})[:3], seed=1) == {}
    assert importance(SPACE, trials_of({"a.x": 0.0, "a.y": 0.0, "views": 0.0}), seed=1) == {}


def test_a_setting_that_did_not_vary_is_left_out() -> None:
    same = [one for one in trials_of({"a.x": 0.4, "a.y": 0.1, "views": 0.1}) if one.values["views"] == "one"]
    assert set(importance(SPACE, same, seed=1)) == {"a.x", "a.y"}
