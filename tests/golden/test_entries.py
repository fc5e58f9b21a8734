"""How golden entries are kept and compared."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.golden.comparison import EXACT, USUAL, against_entry, between_packages, value_differences
from tests.golden.entries import ChangedEntryError, Entry, Golden, entry_of, environment_id
from tests.golden.packages import Case, Run
from tests.golden.results import Result, Values

HERE, ELSEWHERE = {"torch": "2", "cpu": "a"}, {"torch": "2", "cpu": "b"}
VALUES: Values = {
    "array/x": [1.0, 2.0],
    "labels/m/3": [0.5, 0.0, 0.0, 0.25],
    "metric/loss": [0.7],
    "weights/head": [2.0, -1.0],
}


def case(
    kind: str = "make_cams", *, digest: str = "bytes", content: str = "pixels", values: Values | None = None
) -> Case:
    result = Result(digest, content, VALUES | (values or {}))
    return Case(kind, {kind: 3}, {}, frozenset(), "", result)


def run(versions: dict[str, str]) -> Run:
    return Run(versions, {}, {})


def entry(made: Case) -> Entry:
    return entry_of(made, name="cams", run=run(HERE), made_at="abc1234", settings={"kind": made.kind})


def test_an_entry_is_never_replaced() -> None:
    golden = Golden({}, [])
    golden.add(entry(case()))
    with pytest.raises(
        ChangedEntryError, match=r"cams has an entry at revisions make_cams 3; entries are added, never"
    ):
        golden.add(entry(case(digest="other bytes")))
    golden.add(replace(entry(case(digest="other bytes")), revisions={"make_cams": 4}))
    assert [one.digest for one in golden.entries] == ["bytes", "other bytes"]
    found = golden.find("cams", {"make_cams": 4})
    assert found is not None and found.digest == "other bytes"
    assert golden.find("cams", {"make_cams": 5}) is None


def test_entries_survive_the_file() -> None:
    golden = Golden({environment_id(HERE): HERE}, [entry(case())])
    assert Golden.from_text(golden.to_text()) == golden


def test_equal_machines_are_compared_exactly() -> None:
    known = entry(case())
    assert against_entry(known, case(), run(HERE)) == ""
    assert "the bytes differ" in against_entry(known, case(digest="others"), run(HERE))
    changed = case(values={"array/x": [1.0, 2.000001]})
    assert "array/x: [1.0, 2.0] before, [1.0, 2.000001] after" in against_entry(known, changed, run(HERE))


def test_other_machines_are_compared_within_the_tolerance() -> None:
    known = entry(case())
    assert against_entry(known, case(digest="others", values={"array/x": [1.001, 2.0]}), run(ELSEWHERE)) == ""
    assert "array/x" in against_entry(known, case(values={"array/x": [1.02, 2.0]}), run(ELSEWHERE))


def test_copied_records_are_compared_exactly_everywhere() -> None:
    known = entry(case("build_shards"))
    assert against_entry(known, case("build_shards", digest="others"), run(ELSEWHERE)) == ""
    assert "the records differ" in against_entry(known, case("build_shards", content="others"), run(ELSEWHERE))


@pytest.mark.parametrize(
    ("name", "near", "far"),
    [
        ("array/x", [1.0, 2.009], [1.0, 2.011]),
        ("weights/head", [2.009, -1.0], [2.0, -1.011]),
        ("labels/m/3", [0.51, 0.0, 0.0, 0.25], [0.5, 0.0, 0.03, 0.25]),
        ("metric/loss", [0.719], [0.721]),
    ],
)
def test_tolerances(name: str, near: list[float], far: list[float]) -> None:
    assert value_differences(VALUES, VALUES | {name: near}, tolerance=USUAL) == []
    assert len(value_differences(VALUES, VALUES | {name: far}, tolerance=USUAL)) == 1
    assert len(value_differences(VALUES, VALUES | {name: near}, tolerance=EXACT)) == 1


def test_what_is_gone_or_new() -> None:
    without = {name: value for name, value in VALUES.items() if name != "metric/loss"}
    assert value_differences(VALUES, without, tolerance=USUAL) == ["metric/loss is only there before"]
    assert value_differences(without, VALUES, tolerance=USUAL) == [], "a metric may be added"
    assert value_differences(VALUES, VALUES | {"array/y": [1.0]}, tolerance=USUAL) == ["array/y is only there after"]
    assert value_differences(VALUES, VALUES | {"labels/m/9": [0.0, 0.1, 0.0, 0.0]}, tolerance=USUAL) != []
    assert value_differences(VALUES, VALUES | {"metric/loss": [float("nan")]}, tolerance=USUAL) != []


def test_packages_are_compared_exactly() -> None:
    failed = Case("make_cams", {"make_cams": 3}, {}, frozenset(), "Traceback: no such setting", None)
    assert between_packages(case(), case()) == ""
    assert "the bytes differ" in between_packages(case(), case(digest="others"))
    assert "no such setting" in between_packages(case(), failed)
