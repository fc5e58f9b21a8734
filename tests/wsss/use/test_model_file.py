from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.wsss.use.made_models import CLASSES, SEGMENTER, classifier, instance_of, segmenter, write_model
from wsss.contract.stage import Instance
from wsss.contract.weights_metadata import KEY, metadata_of, read_metadata, weights_header
from wsss.pipeline.recipe import dotted_settings
from wsss.stages.train_segmenter import TrainSegmenter
from wsss.use.model_file import learned_side, read_segmenter, with_own_metadata

USE = "this test"


def test_a_file_alone_suffices(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "train" / "weights.safetensors", mean=(0.5, 0.4, 0.3), output_stride=8)
    moved = tmp_path / "elsewhere.safetensors"
    shutil.move(path, moved)
    model = read_segmenter(moved, use=USE)
    assert model.taxonomy.names == CLASSES
    known = model.metadata.settings
    assert (known["encoder"], known["output_stride"], known["mean"]) == ("test_efficientnet", 8, [0.5, 0.4, 0.3])
    assert learned_side(model) == 48
    wanted = load_file(moved)
    assert all(torch.equal(value, wanted[name]) for name, value in model.network().state_dict().items())


def test_the_header_names_no_place_and_is_the_same_every_time(tmp_path: Path) -> None:
    start = tmp_path / "encoder.safetensors"
    save_file({"x": torch.zeros(1)}, start)
    stage = TrainSegmenter(**SEGMENTER | {"pretrained": str(start)})
    first, again = (weights_header(instance_of(stage, tmp_path / name)) for name in ("a", "b"))
    assert first == again
    assert str(tmp_path) not in first[KEY]
    assert json.loads(first[KEY])["settings"]["pretrained"].startswith("sha256:")
    other_ranks = TrainSegmenter(**SEGMENTER | {"pretrained": str(start), "world_size": 2, "loader_workers": 3})
    assert weights_header(instance_of(other_ranks, tmp_path)) == first, "what changes no result is not in it"


def test_weights_without_a_header_are_read_in_the_folder_of_their_run(tmp_path: Path) -> None:
    stage = TrainSegmenter(**SEGMENTER)
    path = write_model(tmp_path / "store" / "train_segmenter-5e5e" / "weights.safetensors", stage, header=False)
    own = dict(dotted_settings(instance_of(stage, path.parent)))
    samples = {"kind": "build_shards", "fingerprint": "ab" * 32, "settings": {"s.class_names": CLASSES}, "upstream": {}}
    lineage = {"kind": stage.kind, "fingerprint": "5e" * 32, "settings": own, "upstream": {"samples": samples}}
    (path.parent / "settings.json").write_text(json.dumps(lineage))
    model = read_segmenter(path.parent, use=USE)
    assert model.taxonomy.names == CLASSES
    # The class list of the layer beside it comes first: a data set's own order of all its classes.
    layer = tmp_path / "store" / f"build_shards-{'ab' * 8}"
    layer.mkdir()
    index = {"record": "sample", "shards": [], "counts": {}, "sha256": {}, "missing": {}, "classes": ["x", "y", "z"]}
    (layer / "index.json").write_text(json.dumps(index))
    found = read_segmenter(path, use=USE)
    assert found.taxonomy.names == ("x", "y", "z")
    assert with_own_metadata(found).metadata.header() == {
        KEY: weights_header(instance_of(stage, path.parent, ("x", "y", "z")))[KEY]
    }
    alone = tmp_path / "alone.safetensors"
    shutil.copy(path, alone)
    with pytest.raises(ValueError, match=r"alone\.safetensors has no metadata of wsss.* `wsss export FOLDER --weights"):
        read_segmenter(alone, use=USE)


def test_files_that_hold_no_segmenter(tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("not weights, but some text that is long enough")
    with pytest.raises(ValueError, match=r"is not a \.safetensors file"):
        read_segmenter(text, use=USE)
    with pytest.raises(ValueError, match="there is no file"):
        read_segmenter(tmp_path / "none.safetensors", use=USE)
    with pytest.raises(ValueError, match=r"has no weights\.safetensors"):
        read_segmenter(tmp_path, use=USE)
    with pytest.raises(ValueError, match=r"holds a classifier \(train_classifier\); this test needs a segmenter"):
        read_segmenter(classifier(tmp_path / "c.safetensors"), use=USE)


def _rewritten(path: Path, **changes: object) -> Path:
    """The file with changes in its description."""
    metadata = read_metadata(path)
    assert metadata is not None
    described = json.loads(metadata.header()[KEY]) | changes
    save_file(load_file(path), path, metadata={KEY: json.dumps(described)})
    return path


def test_descriptions_that_do_not_fit(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "a.safetensors")
    settings = dict(read_metadata(path).settings)  # type: ignore[union-attr]
    other = read_segmenter(_rewritten(path, settings=settings | {"decoder_channels": 16}), use=USE)
    shapes = r"a\.safetensors does not fit model: network\.decoder\S+ is \[.*\] in the file and \[16.*\] in the network"
    with pytest.raises(ValueError, match=shapes):
        other.network()
    with pytest.raises(ValueError, match=r"the setting train_segmenter\.flavour, which this version does not know"):
        read_segmenter(_rewritten(path, settings=settings | {"flavour": 1}), use=USE)
    with pytest.raises(ValueError, match=r"are not valid: train_segmenter\.output_stride"):
        read_segmenter(_rewritten(path, settings=settings | {"output_stride": 5}), use=USE)
    with pytest.raises(ValueError, match="trained by 'train_nothing', which is not installed here"):
        read_segmenter(_rewritten(path, settings=settings, kind="train_nothing"), use=USE)
    with pytest.raises(ValueError, match="its metadata have format 99"):
        read_segmenter(_rewritten(path, kind="train_segmenter", format=99), use=USE)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "a.safetensors")
    metadata = read_metadata(path)
    assert metadata is not None
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.is_floating_point() and value.ndim == 4)
    tensors[name][0] = float("nan")
    save_file(tensors, path, metadata={KEY: metadata.header()[KEY]})
    with pytest.raises(ValueError, match=rf"a\.safetensors: {name} has values that are not finite.*give another one"):
        read_segmenter(path, use=USE).check()


def test_a_training_without_a_data_set_has_no_description(tmp_path: Path) -> None:
    stage = TrainSegmenter(**SEGMENTER)
    alone = Instance(name="alone", stage=stage, seed=0, inputs={}, fingerprint="5e" * 32, path=tmp_path)
    assert metadata_of(alone) is None and weights_header(alone) == {}


def test_another_revision_is_a_warning(tmp_path: Path) -> None:
    path = _rewritten(segmenter(tmp_path / "a.safetensors"), revision=1)
    with pytest.warns(UserWarning, match="was trained by revision 1 of train_segmenter, this version has"):
        read_segmenter(path, use=USE)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is shorter or longer than its header says"):
        read_segmenter(path, use=USE).network()
