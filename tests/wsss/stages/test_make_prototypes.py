"""make_prototypes: which features are collected, what is kept of their clusters, and the file that make_cams reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shards.records import CamRecord, Sample, grid_size
from tests.wsss.layers import instance_of, records_of, samples_of
from tests.wsss.stages.test_make_cams import CLASSIFIER, picture
from wsss.contract.counts import Counts
from wsss.contract.fit import load_trained, weights_path
from wsss.contract.stage import Instance, Outcome
from wsss.data.images import to_tensor
from wsss.ops.cosine_kmeans import cosine_kmeans
from wsss.ops.multi_scale import resize_bilinear
from wsss.ops.prototype_cam import class_response, prototype_direction
from wsss.stages.classifier.prototype_features import CONTEXT, OBJECT, chosen_images, drawn_number
from wsss.stages.classifier.prototype_file import load_directions
from wsss.stages.classifier.prototype_settings import prototypes_path
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_prototypes import MakePrototypes

SHARDS = {
    "train-000000": [picture("a", (4, 1)), picture("b", (2,), size=(33, 64)), picture("c", ())],
    "train-000001": [picture("d", (1,)), picture("e", (4,), size=(33, 64)), picture("f", (1, 2))],
    "val-000000": [picture("g", (1,))],
}
ALL: dict[str, Any] = {"positions_per_image": 1000, "foreground_threshold": 0.5, "num_clusters": 3}


def maps_of(sample: Sample) -> np.ndarray:
    rng = np.random.default_rng(sum(sample.key.encode()))
    return rng.random((len(sample.classes), *grid_size(sample.size))).astype(np.float16)


def cam(sample: Sample) -> CamRecord:
    return CamRecord(key=sample.key, classes=np.array(sample.classes, np.int16), maps=maps_of(sample), size=sample.size)


def classifier_on(path: Path, samples: Instance, stage: Any = CLASSIFIER, *, seed: int = 5) -> Instance:
    trained = instance_of(stage, path, samples=samples)
    trained.path.mkdir(parents=True)
    torch.manual_seed(seed)
    network = stage.model(trained, pretrained=True)
    with torch.no_grad():
        network.head.weight.mul_(30)
    save_file(network.state_dict(), weights_path(trained))
    return trained


def prepared(path: Path, *, without: Sequence[str] = (), **settings: Any) -> Instance:
    """make_prototypes on two training shards. `without`: keys that have no maps."""
    samples = samples_of(path, SHARDS)
    shards = {shard: [cam(s) for s in of_shard if s.key not in without] for shard, of_shard in SHARDS.items()}
    cams = records_of(MakeCams(), path, samples, shards)
    made = {"samples": samples, "cams": cams, "classifier": classifier_on(path, samples)}
    instance = instance_of(MakePrototypes(**{**ALL, **settings}), path, **made)
    instance.path.mkdir()
    return instance


def stage_of(instance: Instance) -> MakePrototypes:
    assert isinstance(instance.stage, MakePrototypes)
    return instance.stage


def counts(instance: Instance, shards: Sequence[str] = ("train-000000", "train-000001")) -> Counts:
    count, total = stage_of(instance).counter(instance), Counts()
    for shard in shards:
        total += count(shard)
    return total


def run(instance: Instance, found: Counts | None = None) -> Outcome:
    return stage_of(instance).finish(instance, counts(instance) if found is None else found)


def test_features_are_those_above_and_below_the_threshold(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    assert stage_of(instance).shards(instance) == ["train-000000", "train-000001"], "val is not read"
    rows, network = counts(instance).rows, load_trained(instance.inputs["classifier"])
    seen = set()
    for sample in [one for shard in ("train-000000", "train-000001") for one in SHARDS[shard]]:
        x = to_tensor(sample.image, mean=CLASSIFIER.mean, std=CLASSIFIER.std)[None]
        with torch.no_grad():
            features = network.features(x)[0]
        planes = torch.from_numpy(maps_of(sample)).float()
        for place, class_id in enumerate(sample.classes):
            on_grid = resize_bilinear(planes[place][None], size=(features.shape[1], features.shape[2]))[0]
            for role, where in ((OBJECT, on_grid > 0.5), (CONTEXT, on_grid < 0.5)):
                own = (rows["keys"] == drawn_number(sample.key)) & (rows["classes"] == class_id)
                own &= rows["roles"] == role
                assert rows["places"][own].tolist() == torch.nonzero(where.flatten())[:, 0].tolist()
                wanted = features[:, where].T
                np.testing.assert_allclose(rows["features"][own], wanted, atol=2e-3, rtol=2e-3)
                seen.update(np.nonzero(own)[0].tolist())
    assert len(seen) == len(rows["keys"]) > 30, "and no others"


def test_clusters_that_the_classifier_recognises_are_kept(tmp_path: Path) -> None:
    limits = {"prototype_threshold": 0.3, "context_lower_threshold": 0.1, "context_upper_threshold": 0.4}
    instance = prepared(tmp_path, **limits)
    found, outcome = counts(instance), run(instance)
    tensors = load_file(prototypes_path(instance))
    weights, rows = load_trained(instance.inputs["classifier"]).cam_weights.detach(), found.rows
    total, kept_some = {"prototypes": 0, "contexts": 0}, False
    for class_id in range(1, 6):
        for role, name in ((OBJECT, "prototype"), (CONTEXT, "context")):
            own = np.nonzero((rows["classes"] == class_id) & (rows["roles"] == role))[0].tolist()
            own.sort(key=lambda row: (int(rows["keys"][row]), int(rows["places"][row])))
            generator = torch.Generator().manual_seed(drawn_number(f"clusters 3 {class_id} {role}"))
            centres, _ = cosine_kmeans(
                torch.from_numpy(rows["features"][own]).float(), num_clusters=3, num_iterations=20, generator=generator
            )
            response = class_response(centres, weights_LD=weights, row=class_id - 1)
            kept = centres[response > 0.3] if role == OBJECT else centres[(response > 0.1) & (response < 0.4)]
            if role == OBJECT and len(response) and not len(kept):
                kept = centres[response.argmax()][None]
            kept_some |= role == OBJECT and 0 < len(kept) < 3
            stored = tensors[f"{name}s"][tensors[f"{name}_classes"] == class_id]
            torch.testing.assert_close(stored, kept)
            total[f"{name}s"] += len(kept)
    assert kept_some and total["contexts"] > 0
    assert {name: outcome.metrics[name] for name in total} == total
    assert outcome.metrics["features"] == len(rows["keys"])
    assert outcome.artifacts == {"prototypes.safetensors": str(prototypes_path(instance))}


def test_bytes_do_not_depend_on_the_order_of_the_shards_or_on_threads(tmp_path: Path) -> None:
    instance, threads = prepared(tmp_path), torch.get_num_threads()
    run(instance)
    first = prototypes_path(instance).read_bytes()
    torch.set_num_threads(2)
    try:
        run(instance, counts(instance, ("train-000001", "train-000000")))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert prototypes_path(instance).read_bytes() == first
    run(replace(instance, seed=4))
    assert prototypes_path(instance).read_bytes() != first, "the seed draws the first centres"


def test_positions_are_drawn_by_seed_and_key(tmp_path: Path) -> None:
    few = prepared(tmp_path, positions_per_image=2)
    rows = counts(few).rows
    groups = list(zip(rows["keys"].tolist(), rows["classes"].tolist(), rows["roles"].tolist(), strict=True))
    assert groups and max(groups.count(one) for one in groups) == 2
    again, other = counts(few).rows, counts(replace(few, seed=9)).rows
    assert all(np.array_equal(rows[name], again[name]) for name in rows)
    assert not np.array_equal(rows["places"], other["places"])
    alone = counts(few, ["train-000001"]).rows
    assert drawn_places(alone) < drawn_places(rows), "other shards do not change what is drawn"


def drawn_places(rows: Mapping[str, np.ndarray]) -> set[tuple[int, ...]]:
    columns = (rows[name].tolist() for name in ("keys", "classes", "roles", "places"))
    return set(zip(*columns, strict=True))


def test_images_of_a_class_are_those_with_the_smallest_numbers(tmp_path: Path) -> None:
    instance = prepared(tmp_path, without=["d"])
    layers = [instance.inputs[slot].layer for slot in ("samples", "cams")]

    def chosen(number: int, *, learned: Sequence[int] = (1, 2, 4), splits: Sequence[str] = ("train",)) -> set[Any]:
        found = chosen_images(*layers, splits=splits, learned=learned, images_per_class=number, seed=3)
        return {(shard, key, c) for shard, of in found.items() for key, classes in of.items() for c in classes}

    first, second = "train-000000", "train-000001"
    everything = {(first, "a", 1), (first, "a", 4), (first, "b", 2), (second, "e", 4), (second, "f", 1)}
    everything |= {(second, "f", 2)}
    assert chosen(10) == everything, "d has no maps and c shows no class"
    numbers = {key: drawn_number(f"prototypes 3 {key}") for key in "abef"}
    smallest = {c: min((k for _, k, own in everything if own == c), key=numbers.__getitem__) for c in (1, 2, 4)}
    assert {(key, c) for _, key, c in chosen(1)} == {(key, c) for c, key in smallest.items()}
    assert chosen(10, learned=[4]) == {(first, "a", 4), (second, "e", 4)}
    assert chosen(10, learned=[1], splits=["val"]) == {("val-000000", "g", 1)}


def test_classes_without_features_and_without_a_sure_cluster_are_named(tmp_path: Path) -> None:
    instance = prepared(tmp_path, prototype_threshold=0.999999)
    outcome = run(instance)
    names = [instance.taxonomy.name_of(c) for c in range(1, 6)]
    none, unsure = outcome.notes
    assert none.startswith(f"no feature of {names[2]}, {names[4]} is above foreground_threshold = 0.5; maps of")
    assert unsure.startswith(
        f"no cluster of {names[0]}, {names[1]}, {names[3]} is above prototype_threshold = 0.999999"
    )
    assert outcome.metrics["classes_without_prototype"] == 2 and outcome.metrics["prototypes"] == 3
    table = outcome.tables["prototypes"]
    assert [row["class"] for row in table] == names and [row["prototypes"] for row in table] == [1, 1, 0, 1, 0]
    assert set(load_directions(instance)) == {1, 2, 4}


def test_without_any_feature_there_is_a_file_without_prototypes(tmp_path: Path) -> None:
    instance = prepared(tmp_path, without="abcdefg", splits=("val",))
    assert counts(instance, ["val-000000"]).rows == {}
    outcome = run(instance, Counts())
    assert outcome.metrics["prototypes"] == outcome.metrics["features"] == 0
    assert load_directions(instance) == {} and stage_of(instance).is_intact(instance)


def test_the_file_gives_the_directions_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    instance = prepared(tmp_path, context_lower_threshold=0.0, context_upper_threshold=1.0)
    assert not stage_of(instance).is_intact(instance)
    run(instance)
    tensors = load_file(prototypes_path(instance))
    for class_id, found in load_directions(instance).items():
        own, contexts = (tensors[f"{n}s"][tensors[f"{n}_classes"] == class_id] for n in ("prototype", "context"))
        torch.testing.assert_close(found, prototype_direction(own, contexts_QD=contexts))
        assert len(contexts) == 3
    prototypes_path(instance).write_bytes(prototypes_path(instance).read_bytes()[:-1])
    assert not stage_of(instance).is_intact(instance)
    with pytest.raises(ValueError, match=r"prototypes.safetensors is damaged; delete it, so that make_prototypes"):
        load_directions(instance)


def test_an_image_that_cannot_be_decoded_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHARDS, "train-000000", [replace(SHARDS["train-000000"][0], encoded=b"no image")])
    rows = counts(prepared(tmp_path)).rows
    assert set(rows["keys"].tolist()) == {drawn_number(key) for key in "def"}


def test_the_image_at_long_side(tmp_path: Path) -> None:
    own, large = (counts(prepared(tmp_path / str(n), long_side=n), ["train-000000"]).rows for n in (0, 140))
    assert len(large["places"]) > 2 * len(own["places"])


def refusal(instance: Instance, **changes: Any) -> str:
    changed = replace(instance, stage=replace(stage_of(instance), **changes))
    with pytest.raises(ValueError, match=changed.name) as caught:
        changed.stage.check(changed)
    return str(caught.value)


def test_settings_and_inputs_that_do_not_fit(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    instance.stage.check(instance)
    assert "make_prototypes.splits names 'test', but make_cams makes only train, val" in refusal(
        instance, splits=("train", "test")
    )
    limits = {"context_lower_threshold": 0.5, "context_upper_threshold": 0.5}
    assert "context_lower_threshold = 0.5 is not below context_upper_threshold = 0.5" in refusal(instance, **limits)
    for changes, message in (
        ({"head": "stochastic"}, "needs a classifier with head = 'linear'; train_classifier.head is 'stochastic'"),
        ({"folds": 2, "fold": 1}, "but train_classifier is one of 2 of a cross-fitting"),
    ):
        other = replace(instance.inputs["classifier"], stage=replace(CLASSIFIER, **changes))  # type: ignore[arg-type]
        assert message in refusal(replace(instance, inputs={**instance.inputs, "classifier": other}))


def test_a_classifier_of_one_class_is_sure_of_everything(tmp_path: Path) -> None:
    instance = prepared(tmp_path)
    name = instance.taxonomy.name_of(4)
    one = replace(instance.inputs["classifier"], stage=replace(CLASSIFIER, only_classes=(name,)))
    alone = replace(instance, inputs={**instance.inputs, "classifier": one})
    assert [n for n in alone.stage.cautions(alone) if "learns one class" in n]
    assert not [n for n in instance.stage.cautions(instance) if "learns one class" in n]
    outcome = run(alone)
    assert (outcome.metrics["prototypes"], outcome.metrics["contexts"]) == (3, 0)
    assert set(load_directions(alone)) == {4}
