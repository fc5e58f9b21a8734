from __future__ import annotations

import pytest

from tuning.dimensions import Cases, Choices, Range


def test_every_value_of_a_range_from_end_to_end() -> None:
    assert Range(low=0.1, high=0.7, step=0.2).all_values == (0.1, 0.3, 0.5, 0.7), "tidy, both ends"
    assert Range(low=2, high=5).all_values == (2, 3, 4, 5)
    assert Range(low=2, high=8, step=3).all_values == (2, 5, 8)
    steps = Range(low=0.125, high=0.5, step=1 / 256).all_values
    assert len(steps) == len(set(steps)) == 97 and steps[-1] == 0.5


@pytest.mark.parametrize("one", [Range(low=0.1, high=0.5), Range(low=1, high=9, log=True)])
def test_a_range_without_steps_has_no_list_of_values(one: Range) -> None:
    with pytest.raises(ValueError, match=r"a grid tries every value: give step, without log, or \{ choices"):
        _ = one.all_values


def test_choices_of_any_kind_each_once() -> None:
    assert Choices(choices=(1, 1.0, "1", [1], True)).all_values == (1, 1.0, "1", [1], True)
    with pytest.raises(ValueError, match=r"\[1, 2\] is listed twice among the choices; list every value once"):
        Choices(choices=([1, 2], [2, 1], [1, 2]))


def test_cases_give_the_same_settings_and_other_values() -> None:
    views = {
        "one": {"predict.flip": False, "predict.scales": [1.0]},
        "two": {"predict.scales": [1.0], "predict.flip": 1},
    }
    cases = Cases(cases=views)
    assert set(cases.settings) == {"predict.flip", "predict.scales"} and cases.all_values == ("one", "two")
    with pytest.raises(ValueError, match=r"cases 'one' and 'two' must give the same settings; one gives no predict.fl"):
        Cases(cases={**views, "two": {"predict.scales": [1.0]}})
    with pytest.raises(ValueError, match="cases 'one' and 'again' give the same values; leave one of them out"):
        Cases(cases={**views, "again": dict(reversed(views["one"].items()))})
    with pytest.raises(ValueError, match="case 'none' gives no setting"):
        Cases(cases={"none": {}})
