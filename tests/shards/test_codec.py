from __future__ import annotations

from dataclasses import replace

import pytest

from shards.codec import decode, encode, key_of, member_name, to_json
from shards.records import CamRecord, Record, ScoreRecord
from tests.shards.example_records import assert_equal, one_of_each

KEYS = ["a", "2007_000027", "n01/n01_2.v3", "x.y.z", "..", "a%2Eb", "crème/brûlée 名", "__meta", "a b(1)+~", "-"]


@pytest.mark.parametrize("record", one_of_each("k"), ids=lambda record: record.kind)
def test_round_trip(record: Record) -> None:
    assert_equal(decode(record.kind, "k", encode(record)), record)


def test_unknown_classes_of_maps_survive_and_cost_nothing_where_there_are_none() -> None:
    for record in one_of_each("k"):
        if isinstance(record, CamRecord | ScoreRecord):
            unknown = (1, 2, *range(9, 201))
            members = encode(replace(record, unknown=unknown))
            decoded = decode(record.kind, "k", members)
            assert isinstance(decoded, CamRecord | ScoreRecord) and decoded.unknown == unknown
            assert b'"1-2,9-200"' in members["json"] and b"unknown" not in encode(record)["json"]


def test_equal_records_give_equal_bytes_and_others_do_not() -> None:
    for one, same, other in zip(one_of_each("k", 1), one_of_each("k", 1), one_of_each("k", 2), strict=True):
        assert encode(one) == encode(same)
        if len(getattr(one, "classes", (1,))):
            assert encode(one) != encode(other)


@pytest.mark.parametrize("key", KEYS)
def test_key_survives_as_a_file_name(key: str) -> None:
    stem = member_name(key)
    assert "." not in stem and not stem.startswith("__") and stem.isascii()
    assert key_of(stem) == key


def test_different_keys_are_different_files() -> None:
    assert len({member_name(key) for key in KEYS}) == len(KEYS)


@pytest.mark.parametrize("key", ["", "folder/"])
def test_key_that_names_no_file(key: str) -> None:
    with pytest.raises(ValueError, match="is not a valid key: it must have a name"):
        member_name(key)


def test_missing_member_is_named() -> None:
    members = encode(one_of_each("k")[0])
    del members["json"]
    with pytest.raises(ValueError, match=r"record 'k' has no member 'json'; it has \['img', 'mask.png'\]"):
        decode("sample", "k", members)


@pytest.mark.parametrize("record", one_of_each("k"), ids=lambda record: record.kind)
def test_damaged_member_is_a_value_error(record: Record) -> None:
    for name, data in encode(record).items():
        if name == "img":
            continue  # decoded on use
        for damaged in (b"", data[: len(data) // 2], b"\x00" * len(data)):
            with pytest.raises(ValueError, match="record 'k' is not readable"):
                decode(record.kind, "k", {**encode(record), name: damaged})


def test_json_does_not_depend_on_the_order_of_insertion() -> None:
    assert to_json({"b": 1, "a": [1, 2]}) == to_json({"a": [1, 2], "b": 1}) == b'{"a":[1,2],"b":1}'


def test_a_map_that_names_an_instance_too_many() -> None:
    *_, some, none = one_of_each("k")
    members = {**encode(some), "npz": encode(none)["npz"]}
    with pytest.raises(ValueError, match=r"record 'k' is not readable: its map contains instance \d+, but it lists 0"):
        decode("instance_label", "k", members)
