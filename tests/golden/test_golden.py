"""The results of the package in this tree are those that were recorded; README.md says what to do where not."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest

from tests.golden.comparison import against_entry, tolerance_of, value_differences
from tests.golden.covered_choices import NOT_COVERED, RETIRED, uncovered
from tests.golden.entries import Entry, Golden, fingerprint_of, words
from tests.golden.packages import Run, given_settings, run_package

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FIRST_COMMIT = "ee5a0ff"
FIRST_ENTRIES = "d0e2120b6460556e9bcd403b2ca907ad3afecaa0a7c5210fade0c3e1e3ced31e"
EQUAL_ON_PURPOSE = (
    {"classifier", "classifier_zero_1", "classifier_zero_2", "classifier_zero_3"}
    | {"classifier_norm_synchronised", "classifier_two_ranks_synchronised"},
    {"classifier_norm_frozen", "classifier_checkpointed"},
    {"cams", "cams_batch", "cams_grad_cam_last_layer"},
    {"segmenter", "segmenter_validated"},
)
"""Cases whose settings must not change what is computed: only how, or what is measured beside it."""
EQUAL_WITHIN_TOLERANCE: tuple[set[str], ...] = ()
"""Cases that differ by less than another CPU may change: distinguished by their bytes alone."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_package(ROOT, tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden.read()


@pytest.mark.parametrize("name", list(given_settings()))
def test_result_is_as_recorded(name: str, run: Run, golden: Golden) -> None:
    case = run.cases[name]
    assert not case.failure, case.failure
    entry = golden.find(name, case.revisions)
    assert entry is not None, (
        f"{name} has no entry at revisions {words(case.revisions)}; where a revision was raised on purpose, or the "
        f"case is new, add it: python -m tests.golden.make --package . --only {name}"
    )
    found = against_entry(entry, case, run)
    assert not found, (
        f"{name} gives another result than at {entry.made_at}, and no revision says so ({words(case.revisions)}). Mend "
        f"the cause, or raise the revision of the stage that is meant to give another result.\n  {found}"
    )


def test_every_choice_has_a_case(run: Run) -> None:
    assert set(uncovered(run)) == set(NOT_COVERED), (
        "add an instance to tests/golden/cases.toml for every choice that is only on the left, then its entry: "
        "python -m tests.golden.make --package . --only NAME"
    )


def test_every_recorded_case_is_still_run(golden: Golden) -> None:
    recorded = {entry.case for entry in golden.entries}
    assert recorded - set(RETIRED) <= set(given_settings()), "a case was taken away or renamed"
    assert set(RETIRED) <= recorded and not set(RETIRED) & set(given_settings())


def test_first_entries_were_not_changed(golden: Golden) -> None:
    first = [entry for entry in golden.entries if entry.made_at == FIRST_COMMIT]
    assert fingerprint_of(first) == FIRST_ENTRIES, f"entries made at {FIRST_COMMIT} were changed, taken away or added"


def test_one_entry_per_case_and_revisions(golden: Golden) -> None:
    found = [(entry.case, words(entry.revisions)) for entry in golden.entries]
    assert len(found) == len(set(found))


def pairs(golden: Golden) -> list[tuple[Entry, Entry]]:
    """Entries of one kind, made at the first commit, whose results should differ."""
    first = [entry for entry in golden.entries if entry.made_at == FIRST_COMMIT]
    return [
        (one, other)
        for one, other in combinations(first, 2)
        if one.kind == other.kind and not any({one.case, other.case} <= group for group in EQUAL_ON_PURPOSE)
    ]


def test_every_choice_changes_the_result(golden: Golden) -> None:
    """A case that equals another one would not see its choice ignored."""
    equal = [
        (one.case, other.case)
        for one, other in pairs(golden)
        if one.digest == other.digest and not value_differences(one.values, other.values, tolerance=tolerance_of(""))
    ]
    assert equal == []


def test_choices_differ_by_more_than_the_tolerance(golden: Golden) -> None:
    """On another CPU than that of the entries the values alone must tell choices apart."""
    equal = [
        {one.case, other.case}
        for one, other in pairs(golden)
        if one.kind != "build_shards"
        and not value_differences(one.values, other.values, tolerance=tolerance_of(one.case))
    ]
    assert [pair for pair in equal if pair not in EQUAL_WITHIN_TOLERANCE] == []


def test_cases_that_should_be_equal_are(golden: Golden) -> None:
    entries = {entry.case: entry for entry in golden.entries if entry.made_at == FIRST_COMMIT}
    for group in EQUAL_ON_PURPOSE:
        first, *others = (entries[name] for name in sorted(group))
        for other in others:
            shared = {name: value for name, value in first.values.items() if name in other.values}
            assert not value_differences(shared, other.values, tolerance=tolerance_of(""))
