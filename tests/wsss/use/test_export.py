from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.wsss.use.made_models import classifier, segmenter
from wsss.contract.weights_metadata import read_metadata
from wsss.use.export import export


def lines(path: Path, **asked: Path) -> list[str]:
    return list(export(path, **{"onnx": None, "smp": None, "pictures": None, "weights": None} | asked))  # type: ignore[arg-type]


def test_weights_are_written_with_their_description(tmp_path: Path) -> None:
    path = classifier(tmp_path / "c.safetensors")
    copy = tmp_path / "copy.safetensors"
    assert "with their metadata" in lines(path, weights=copy)[0]
    assert read_metadata(copy) == read_metadata(path)
    assert load_file(copy).keys() == load_file(path).keys()


def test_what_is_asked_for_must_be_possible(tmp_path: Path) -> None:
    path = segmenter(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="name what to write: --onnx FILE, --smp FOLDER or --weights FILE"):
        lines(path)
    with pytest.raises(ValueError, match="--smp needs --pictures FOLDER"):
        lines(path, smp=tmp_path / "x")
    with pytest.raises(ValueError, match=r"name a file that ends in \.safetensors"):
        lines(path, weights=tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"encoder = 'test_vit': ONNX opset 17 has no operation .* --weights instead"):
        lines(segmenter(tmp_path / "v.safetensors", encoder="test_vit", dilated=False), onnx=tmp_path / "x.onnx")
    with pytest.raises(ValueError, match="--onnx needs a segmenter"):
        lines(classifier(tmp_path / "c.safetensors"), onnx=tmp_path / "x.onnx")
