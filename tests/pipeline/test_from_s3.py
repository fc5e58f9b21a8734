"""Shards in a bucket: the same layers and weights as from disk, two ranks, faults on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shards.layer import ShardError
from tests.pipeline.chain import TINY, run, tiny
from tests.pipeline.conftest import Finished
from tests.shards.object_store import BUCKET, Faults, object_store, proxy, put, use
from wsss.contract.fit import weights_path
from wsss.pipeline.recipe import Recipe, RecipeError

pytestmark = pytest.mark.slow

FROM_S3 = f"""[stages.build_shards]
source = "shards"
root = "s3://{BUCKET}/toy"
"""


def recipe_from_s3(folder: Path, *overrides: str) -> Recipe:
    text = TINY.read_text()
    start, end = text.index("[stages.build_shards]"), text.index("[stages.train_classifier]")
    path = folder / "from_s3.toml"
    path.write_text(text[:start] + FROM_S3 + "\n" + text[end:])
    return tiny(folder / "runs", f"build_shards.cache={folder / 'cache'}", *overrides, path=path)


def upload(finished: Finished, address: str) -> None:
    samples = finished.recipe.instance("build_shards").path
    for path in [*samples.glob("*.tar"), *samples.glob("*-*.json"), samples / "index.json"]:
        put(address, f"toy/{path.name}", path.read_bytes())


@pytest.mark.parametrize("gigabytes", [50, 0])
def test_layers_and_weights_are_those_from_disk(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: int
) -> None:
    """With room for a cache every tar is fetched once, though a request in ten fails; without, records are."""
    faults = Faults()
    with object_store() as address, proxy(address, faults) as failing:
        upload(finished, address)
        use(monkeypatch, failing)
        recipe = recipe_from_s3(tmp_path, f"build_shards.cache_gigabytes={gigabytes}")
        faults.coming = (["pass"] * 9 + ["503"] + ["pass"] * 9 + ["cut"]) * 100
        run(recipe, last="make_cams")
        whole = finished.recipe
        assert not list(recipe.instance("build_shards").path.glob("*.tar")), "tars stay where they are"
        trained, wanted = (load_file(weights_path(one.instance("train_classifier"))) for one in (recipe, whole))
        assert trained.keys() == wanted.keys()  # the header differs: it has the fingerprint, and so where data are from
        assert all(torch.equal(value, trained[name]) for name, value in wanted.items())
        for path in whole.instance("make_cams").path.glob("*.tar"):
            assert (recipe.instance("make_cams").path / path.name).read_bytes() == path.read_bytes()
        fetched = [asked for asked, _ in faults.requests if asked.endswith(".tar")]
        shards = len(list(whole.instance("build_shards").path.glob("*.tar")))
        assert (len(fetched) <= 1.5 * shards) == (gigabytes > 0)
        assert sorted(run(recipe, last="make_cams").reused) == ["build_shards", "make_cams", "train_classifier"]


def test_what_is_wrong_with_a_bucket_is_reported_before_anything_runs(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store() as address:
        use(monkeypatch, address)
        with pytest.raises(
            RecipeError, match=rf"no finished shards can be read: s3://{BUCKET}/toy/index.json: there is no"
        ):
            recipe_from_s3(tmp_path)
        cams = (finished.recipe.instance("make_cams").path / "index.json").read_bytes()
        put(address, "toy/index.json", cams)
        with pytest.raises(RecipeError, match=r"toy/index.json is the index of cam records, but samples are needed"):
            recipe_from_s3(tmp_path)
        upload(finished, address)
        with pytest.raises(RecipeError, match=r"has no shards of split 'test'; it has train, val"):
            recipe_from_s3(tmp_path, 'build_shards.splits=["test"]')
        with pytest.raises(RecipeError, match=r"counts is given, but source = 'shards' does not read it"):
            recipe_from_s3(tmp_path, "build_shards.counts={train=3}")


def test_an_index_of_another_count_is_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with object_store() as address:
        use(monkeypatch, address)
        upload(finished, address)
        index = json.loads((finished.recipe.instance("build_shards").path / "index.json").read_bytes())
        shard, count = next(iter(index["counts"].items()))
        index["counts"][shard] = count + 1
        put(address, "toy/index.json", json.dumps(index).encode())
        message = rf"toy/{shard}.json has {count} records, but index.json says {count + 1}; upload both again"
        with pytest.raises(ShardError, match=message):
            run(recipe_from_s3(tmp_path), last="build_shards")
