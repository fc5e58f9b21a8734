from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tuning.dimensions import Cases, Choices, Range
from tuning.distinct_search import DistinctSearch
from tuning.search_space import SearchSpace

SPACE = SearchSpace({"a.x": Range(low=0.1, high=0.5, step=0.1), "a.y": Choices(choices=(1, "b", [1, 2]))})


def suggestions(count: int, *, seed: int = 1, earlier: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    search = DistinctSearch(SPACE, objectives=("mean_iou",), seed=seed, num_random=4, earlier=earlier)
    found = []
    for number in range(count):
        suggestion = search.suggest(f"trial{number}")
        assert suggestion is not None
        values = SPACE.values(suggestion)
        found.append(" ".join(SPACE.apply(values)))
        report = {"mean_iou": values["a.x"], "training_iteration": 1}
        search.on_trial_result(f"trial{number}", report)
        search.on_trial_complete(f"trial{number}", result=report)
    return found


def test_a_small_space_is_exhausted_before_a_setting_is_repeated() -> None:
    found = suggestions(16)
    assert len(set(found[:15])) == 15
    assert found[15] in found[:15], "every setting was tried, and the search still suggests one"


def test_validations_of_a_running_training_are_not_scores() -> None:
    search = DistinctSearch(SPACE, objectives=("mean_iou",), seed=1, num_random=2)
    search.suggest("trial0")
    for epoch in (1, 2):
        search.on_trial_result("trial0", {"epoch": epoch, "validation": 0.5, "training_iteration": epoch})
    search.on_trial_complete("trial0", result={"mean_iou": 0.25, "training_iteration": 3})
    assert search.suggest("trial1") is not None


def test_the_same_seed_and_scores_give_the_same_settings() -> None:
    assert suggestions(9) == suggestions(9)
    assert suggestions(9) != suggestions(9, seed=2)


def test_cases_are_drawn_by_their_names() -> None:
    cases = Cases(cases={"one": {"a.x": 1, "a.y": [2]}, "two": {"a.x": 3, "a.y": [4]}})
    space = SearchSpace({"views": cases})
    search = DistinctSearch(space, objectives=("mean_iou",), seed=1, num_random=2)
    drawn = [space.values(search.suggest(f"trial{number}") or {}) for number in range(2)]
    assert sorted(values["views"] for values in drawn) == ["one", "two"]
    assert sorted(space.apply(drawn[0]) + space.apply(drawn[1])) == ["a.x=1", "a.x=3", "a.y=[2]", "a.y=[4]"]


def test_settings_of_an_earlier_start_come_first_and_are_not_drawn_again() -> None:
    earlier = [{"a.x": 0.5, "a.y": "1"}, {"a.x": 0.1, "a.y": "[1, 2]"}, {"a.x": 0.3, "a.y": '"b"'}]
    wanted = [" ".join(SPACE.apply(SPACE.values(one))) for one in earlier]
    found = suggestions(15, earlier=earlier)
    assert found[:3] == wanted
    assert len(set(found)) == 15


def test_a_start_after_a_stop_goes_on_as_if_there_had_been_none() -> None:
    def drawn(count: int, earlier: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        search = DistinctSearch(SPACE, objectives=("mean_iou",), seed=3, num_random=4, earlier=earlier)
        found = []
        for number in range(count):
            suggestion = search.suggest(str(number)) or {}
            found.append(suggestion)
            search.on_trial_complete(str(number), result={"mean_iou": suggestion["a.x"]})
        return found

    assert drawn(10, drawn(6, ())) == drawn(10, ())


def test_two_objectives_steer_the_search_both_ways() -> None:
    space = SearchSpace({"a.x": Range(low=0.0, high=1.0)})
    search = DistinctSearch(space, objectives=("mean_iou", "seconds"), seed=1, num_random=8)
    for number in range(40):
        x = (search.suggest(str(number)) or {})["a.x"]
        # Above 0.5 seconds rise and nothing is gained: those trials are dominated.
        search.on_trial_complete(str(number), result={"mean_iou": min(x, 0.5), "seconds": x})
    drawn = [trial.params["a.x"] for trial in search._ot_study.trials]
    assert sum(x <= 0.5 for x in drawn[8:]) > 20
    assert max(trial.values[0] for trial in search._ot_study.best_trials) > 0.4
