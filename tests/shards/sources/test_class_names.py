from __future__ import annotations

from pathlib import Path

import pytest

from shards.sources.class_names import (
    cell_names,
    composed,
    is_background,
    plain,
    read_class_list,
    refuse_doubtful,
    separator_in,
    slips,
)
from tests.shards.sources.pictures import put


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("", ()),
        (" cat ", ("cat",)),
        ("cat|hot dog|", ("cat", "hot dog")),
        ("['cat', 'hot dog']", ("cat", "hot dog")),
        ('["cat","dog"]', ("cat", "dog")),
        ("('cat',)", ("cat",)),
        ("{'cat'}", ("cat",)),
        ("[]", ()),
        ('["o\'clock"]', ("o'clock",)),
        ("crane (bird)", ("crane (bird)",)),
        ("\u200bcat\u00a0", ("cat",)),
        ("U\u0308bung", ("\u00dcbung",)),
    ],
)
def test_cells(cell: str, names: tuple[str, ...]) -> None:
    assert cell_names(cell, separator="|") == names


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("[cat, dog]", "is in brackets; write the name without brackets, several names with ';' between"),
        ("['cat' 'dog']", "is in brackets"),  # numpy's way to print; Python would read one name 'catdog'
        ("['cat', dog]", "is in brackets"),
        ("{cat}", "is in brackets"),
        ("(cat, dog)", "is in brackets"),
        ("'cat'", "is in quotes; write it without"),
        ('"cat";dog', "is in quotes; write it without"),
        ("background", "'background' is not a class: leave the cell empty if an image shows none of the classes"),
        ("cat;_Background_", "'_Background_' is not a class"),
        ("NaN", "'NaN' is not a class: leave the cell empty"),
        ("None", "'None' is not a class: leave the cell empty"),
    ],
)
def test_cells_that_are_no_names(cell: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cell_names(cell, separator=";")


def test_one_name_in_several_spellings() -> None:
    assert composed("U\u0308bung ") == "\u00dcbung"
    assert {plain(name) for name in ("Traffic Light", "traffic_light", "traffic-light ", "traffic  light")} == {
        "traffic light"
    }
    assert [is_background(name) for name in ("_background_", "BG", "backgrounds")] == [True, True, False]


def doubtful(*names: str, separator: str = "|") -> None:
    refuse_doubtful({name: f"t.csv, line {line}" for line, name in enumerate(names, start=2)}, separator=separator)


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("teddy bear", "polar bear", "polar fox"),  # words that several names share are names all the same
        ("tench, Tinca tinca", "goldfish, Carassius auratus"),
        ("0", "1", "2"),  # digits to be recognised
        ("c++", "a/c unit"),
    ],
)
def test_names_without_doubt(names: tuple[str, ...]) -> None:
    doubtful(*names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("cat", "dog", "Cat"), "line 4: the classes 'cat' .t.csv, line 2. and 'Cat' differ only in case"),
        (("traffic light", "traffic_light"), "differ only in case, spaces, underscores"),
        (("scab", "rust", "scab rust"), "'scab rust' seems to be several names separated by ' '"),
        (("scab rust", "rust scab", "mildew"), "separated by ' '"),
        (("cat;dog", "emu"), r"separated by ';', but label_separator is '\|'; set label_separator = ';'"),
        (("cat\tdog",), r"separated by '\\t'"),
        (("cat, dog", "dog, emu", "emu, cat"), "separated by ','"),
        (("cat/dog", "dog", "cat"), "separated by '/'"),
        (("cat,dog", "dog"), "'cat,dog' seems to be several names separated by ','"),
        (("dog & cat", "cat"), "separated by '&'"),
        (("0", "1"), "line 2: the only labels are 0 and 1; write the names of the classes"),
    ],
)  # fmt: skip
def test_names_in_doubt_are_refused_with_their_line(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        doubtful(*names)


def test_many_names_take_no_time() -> None:
    """A column of captions: one look at each name, not one at each pair."""
    names = [f"a picture of thing{number} and thing{number + 1}" for number in range(20_000)]
    doubtful(*names)


def test_what_separates_known_names() -> None:
    assert separator_in("cat, dog", ("dog", "cat")) == ","
    assert separator_in("hot dog", ("dog", "cat")) is None


def test_rare_names_spelt_nearly_like_frequent_ones() -> None:
    assert slips({"aeroplane": 100, "aeroplan": 2, "cat": 90, "car": 80}) == [("aeroplan", "aeroplane")]
    assert slips({"elephant": 5, "elefant": 1}) == [("elefant", "elephant")]
    assert slips({"bluebird": 50, "blackbird": 40}) == []


@pytest.mark.parametrize(
    "text",
    [
        "dog\nunseen\n\n cat \n",
        "\ufeff_background_\ndog\nunseen\ncat\n",
        "__ignore__\n_background_\ndog\nunseen\ncat\n",
        "Pixel Value, Class\n0, background\n 1, dog\n 2, unseen\n 3, cat\n",
        "1: dog\n2: unseen\n3: cat",
        '["background", "dog", "unseen", "cat"]',
    ],
)
def test_class_lists(tmp_path: Path, text: str) -> None:
    assert read_class_list(put(tmp_path / "c.txt", text)) == ("dog", "unseen", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff", r"the list of classes is not UTF-8 text: .*c\.txt"),
        ("cat\nbackground\n", r"c\.txt: 'background' is not a class: background is value 0 of the masks"),
        ("cat\ndog\ncat\n", r"c\.txt: it lists 'cat' more than once"),
        ("1,cat\n3,dog\n", "must count up from 0 .background. or 1"),
        ("0,cat\n1,dog\n", "value 0 is 'cat'; in masks 0 is background"),
        ("[cat, dog]", "begins with . but is not a JSON list"),
        ('[1, "dog"]', "not a JSON list of names"),
    ],
)
def test_class_lists_that_cannot_be_read(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_class_list(put(tmp_path / "c.txt", text))
    with pytest.raises(ValueError, match="the list of classes does not exist"):
        read_class_list(tmp_path / "none.txt")
