from __future__ import annotations

from pathlib import Path

import pytest

from shards.layer import Layer, ShardError
from shards.lint import lint
from shards.opened import opened
from shards.preview import preview
from shards.summary import summarise
from shards.writer import write_shard
from tests.shards.example_records import sample
from tests.shards.object_store import BUCKET, Faults, object_store, proxy, put, use

SHARDS = ["train-000000", "train-000001", "val-000000"]


def layer_of(folder: Path) -> Layer:
    layer = Layer(folder, "sample")
    for number, shard in enumerate(SHARDS):
        write_shard(layer, shard, [sample(f"{shard}/{n}", 10 * number + n) for n in range(4)])
    layer.complete(SHARDS, classes=("a", "b", "c", "d", "e"))
    return layer


@pytest.mark.parametrize("text", [None, "", "[]", "{", '{"record": 3}'])
def test_folders_without_a_complete_layer(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "index.json").write_text(text)
    with (
        pytest.raises(ShardError, match=r"holds no complete layer \(index.json is missing or damaged\)"),
        opened(str(tmp_path)),
    ):
        pass


def test_a_bucket_is_looked_into_as_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, faults = layer_of(tmp_path / "samples"), Faults()
    with object_store() as address, proxy(address, faults) as between:
        use(monkeypatch, between)
        for path in layer.path.iterdir():
            put(address, f"toy/{path.name}", path.read_bytes())
        with opened(str(layer.path)) as here, opened(f"s3://{BUCKET}/toy") as there:
            assert there.name == "toy" and there.display_name == f"s3://{BUCKET}/toy"
            assert preview(there) == preview(here)
            assert summarise(there).present == summarise(here).present
            before = len(faults.requests)
            assert list(lint(there)) == []
            tars = [path for path, _ in faults.requests[before:]]
            assert tars == [f"/{BUCKET}/toy/{shard}.tar" for shard in SHARDS], "each is read once"
        put(address, "toy/train-000001.json", b"{}")
        put(address, "toy/val-000000.tar", b"x" * layer.manifest_entry("val-000000").num_bytes)
        with opened(f"s3://{BUCKET}/toy") as there:
            first, second = lint(there)
        assert f"s3://{BUCKET}/toy/train-000001.json is not a manifest entry" in first
        assert f"s3://{BUCKET}/toy/val-000000.tar: its content differs from what was written" in second


def test_an_address_without_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store() as address:
        use(monkeypatch, address)
        with pytest.raises(ShardError, match="no finished shards can be read"), opened(f"s3://{BUCKET}/none"):
            pass
