from __future__ import annotations

from tuning.dimensions import Cases, Choices, Range
from tuning.distinct_search import DistinctSearch
from tuning.search_space import SearchSpace

SPACE = SearchSpace({"a.x": Range(low=0.1, high=0.5, step=0.1), "a.y": Choices(choices=(1, "b", [1, 2]))})


def suggestions(count: int, *, seed: int = 1) -> list[str]:
    search = DistinctSearch(SPACE, metric="score", seed=seed, num_random=4)
    found = []
    for number in range(count):
        suggestion = search.suggest(f"trial{number}")
        assert suggestion is not None
        values = SPACE.values(suggestion)
        found.append(" ".join(SPACE.apply(values)))
        report = {"score": values["a.x"], "training_iteration": 1}
        search.on_trial_result(f"trial{number}", report)
        search.on_trial_complete(f"trial{number}", result=report)
    return found


def test_a_small_space_is_exhausted_before_a_setting_is_repeated() -> None:
    found = suggestions(16)
    assert len(set(found[:15])) == 15
    assert found[15] in found[:15], "every setting was tried, and the search still suggests one"


def test_the_same_seed_and_scores_give_the_same_settings() -> None:
    assert suggestions(9) == suggestions(9)
    assert suggestions(9) != suggestions(9, seed=2)


def test_cases_are_drawn_by_their_names() -> None:
    cases = Cases(cases={"one": {"a.x": 1, "a.y": [2]}, "two": {"a.x": 3, "a.y": [4]}})
    space = SearchSpace({"views": cases})
    search = DistinctSearch(space, metric="score", seed=1, num_random=2)
    drawn = [space.values(search.suggest(f"trial{number}") or {}) for number in range(2)]
    assert sorted(values["views"] for values in drawn) == ["one", "two"]
    assert sorted(space.apply(drawn[0]) + space.apply(drawn[1])) == ["a.x=1", "a.x=3", "a.y=[2]", "a.y=[4]"]
