from __future__ import annotations

from pathlib import Path

import pytest

from shards.layer import Layer, ShardError
from shards.reader import join_shard, read_entry, read_shard
from shards.records import Missing, Record
from shards.writer import write_shard
from tests.shards.example_records import assert_equal, one_of_each, sample, seed_record

SHARD = "val-000003"
KEYS = ["a", "n01/x.y", "__b", "ü", "k" * 150, "z"]


def layer_of(path: Path, keys: list[str], *, kind: str = "seed", missing: dict[str, str] | None = None) -> Layer:
    layer = Layer(path, kind)
    make = sample if kind == "sample" else seed_record
    gone = [Missing(key=key, reason=reason) for key, reason in (missing or {}).items()]
    write_shard(layer, SHARD, [*(make(key, number) for number, key in enumerate(keys)), *gone])
    return layer


@pytest.mark.parametrize("number", range(9))
def test_reads_what_was_written_in_order(tmp_path: Path, number: int) -> None:
    written = [one_of_each(key, seed)[number] for seed, key in enumerate(KEYS)]
    layer = Layer(tmp_path, written[0].kind)
    write_shard(layer, SHARD, written)
    for found, record in zip(read_shard(layer, SHARD), written, strict=True):
        assert_equal(found, record)


@pytest.mark.parametrize("number", range(9))
def test_random_access_equals_sequential_read(tmp_path: Path, number: int) -> None:
    written = [one_of_each(key, seed)[number] for seed, key in enumerate(KEYS)]
    layer = Layer(tmp_path, written[0].kind)
    row = write_shard(layer, SHARD, written)
    in_order = list(read_shard(layer, SHARD))
    for place in (3, 0, 5, 2, 4, 1):
        assert_equal(read_entry(layer, SHARD, row.entries[place]), in_order[place])


def test_empty_shard(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, [], missing={"a": "gone"})
    assert list(read_shard(layer, SHARD)) == []


def test_unfinished_and_cut_shards_name_their_file(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, KEYS)
    tar = layer.tar_path(SHARD)
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-512])
    assert not layer.is_finished(SHARD)
    with pytest.raises(ShardError, match=rf"{tar} is truncated: {len(whole) - 512} bytes, {len(whole)} expected"):
        list(read_shard(layer, SHARD))
    tar.unlink()
    with pytest.raises(ShardError, match=f"{tar} does not exist, but its manifest entry does"):
        list(read_shard(layer, SHARD))
    layer.manifest_path(SHARD).unlink()
    with pytest.raises(ShardError, match=f"{tar} is not finished: it has no manifest entry; run its stage again"):
        list(read_shard(layer, SHARD))
    layer.manifest_path(SHARD).write_bytes(b'{"shard"')
    with pytest.raises(ShardError, match="is not readable"):
        list(read_shard(layer, SHARD))


# Places within a record: its first header's name and size, its first member, its last member (512 bytes each before).
@pytest.mark.parametrize(("kind", "number", "last"), [("seed", 8, 512 + 40), ("cam", 3, 3 * 512 + 64)])
def test_damage_names_the_file(tmp_path: Path, kind: str, number: int, last: int) -> None:
    layer = Layer(tmp_path, kind)
    row = write_shard(layer, SHARD, [one_of_each(key, 7)[number] for key in KEYS])
    tar = layer.tar_path(SHARD)
    whole = tar.read_bytes()
    entry = row.entries[3]
    for place in (entry.offset + 4, entry.offset + 130, entry.offset + 512 + 2, entry.offset + last):
        damaged = bytearray(whole)
        damaged[place : place + 40] = bytes(255 - value for value in damaged[place : place + 40])
        tar.write_bytes(damaged)
        with pytest.raises(ShardError, match=f"{tar}.*; delete it and run its stage again"):
            list(read_shard(layer, SHARD))
        with pytest.raises(ShardError, match=f"{tar} is damaged at 'ü'"):
            read_entry(layer, SHARD, entry)
        assert_equal(read_entry(layer, SHARD, row.entries[2]), one_of_each(KEYS[2], 7)[number])


def test_entry_of_a_tar_that_is_gone(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, ["a"])
    entry = layer.manifest_entry(SHARD).entries[0]
    layer.tar_path(SHARD).unlink()
    with pytest.raises(
        ShardError, match=r"000003.tar is missing; run its stage again \(if it was copied here, copy it again\)"
    ):
        read_entry(layer, SHARD, entry)


def joined(layers: dict[str, Layer], how: str) -> list[Missing | dict[str, Record]]:
    return [j if isinstance(j, Missing) else dict(j) for j in join_shard(layers, SHARD, how=how)]  # type: ignore[arg-type]


def test_join_puts_records_of_one_key_side_by_side(tmp_path: Path) -> None:
    layers = {"samples": layer_of(tmp_path / "s", KEYS, kind="sample"), "seeds": layer_of(tmp_path / "e", KEYS)}
    for how in ("inner", "strict"):
        found = joined(layers, how)
        assert [(record["samples"].key, record["seeds"].key) for record in found] == [(key, key) for key in KEYS]  # type: ignore[index]


def test_inner_join_repeats_the_reasons(tmp_path: Path) -> None:
    layers = {
        "samples": layer_of(tmp_path / "s", ["a", "b", "c", "d"], kind="sample", missing={"e": "unreadable"}),
        "cams": layer_of(tmp_path / "c", ["a", "c", "d"], missing={"b": "no class"}),
        "seeds": layer_of(tmp_path / "e", ["a", "d"], missing={"c": "too small"}),
    }
    found = joined(layers, "inner")
    assert {m.key: m.reason for m in found if isinstance(m, Missing)} == {
        "e": "unreadable",
        "b": "cams: no class; seeds: not in the layer",
        "c": "seeds: too small",
    }
    assert [record["samples"].key for record in found if not isinstance(record, Missing)] == ["a", "d"]


def test_strict_join_refuses(tmp_path: Path) -> None:
    layers = {
        "samples": layer_of(tmp_path / "s", ["a", "b"], kind="sample"),
        "seeds": layer_of(tmp_path / "e", ["a"], missing={"b": "too small"}),
    }
    with pytest.raises(ValueError, match=r"'b' is missing \(seeds: too small\); this join allows no missing record"):
        joined(layers, "strict")


@pytest.mark.parametrize("how", ["inner", "strict"])
def test_key_that_only_a_later_layer_has(tmp_path: Path, how: str) -> None:
    layers = {"samples": layer_of(tmp_path / "s", ["a"], kind="sample"), "seeds": layer_of(tmp_path / "e", ["a", "x"])}
    with pytest.raises(ValueError, match="layer 'seeds' contains 'x', but layer 'samples' does not"):
        joined(layers, how)


def test_left_out_is_passed_on_where_nothing_else_is_the_reason(tmp_path: Path) -> None:
    cams = Layer(tmp_path / "c", "seed")
    gone = [Missing(key="b", reason="dropped", left_out=True), Missing(key="c", reason="dropped", left_out=True)]
    write_shard(cams, SHARD, [seed_record("a"), *gone])
    layers = {
        "samples": layer_of(tmp_path / "s", ["a", "b", "c"], kind="sample"),
        "cams": cams,
        "seeds": layer_of(tmp_path / "e", ["a", "b"], missing={"c": "unreadable"}),
    }
    found = [joined for joined in join_shard(layers, SHARD, how="inner") if isinstance(joined, Missing)]
    assert [(entry.key, entry.left_out) for entry in found] == [("b", True), ("c", False)]
    assert found[1].reason == "cams: dropped; seeds: unreadable"
