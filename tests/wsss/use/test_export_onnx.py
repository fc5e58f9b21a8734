from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import wsss
from tests.wsss.use.made_models import CLASSES, picture, segmenter
from wsss.contract.weights_metadata import KEY
from wsss.use import export_onnx as module
from wsss.use.export_onnx import export_onnx
from wsss.use.model_file import read_segmenter

pytestmark = pytest.mark.slow
NETWORKS: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)},
    "stride 8, padded as TensorFlow does": {"encoder": "mobilenetv2_035", "pad_type": "same", "output_stride": 8},
    "aspp": {"network": "aspp", "output_stride": 8},
}
QUICK, *FURTHER = NETWORKS


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(name, marks=pytest.mark.extended) for name in FURTHER)])
def test_onnxruntime_gives_the_same_probabilities_for_any_size(name: str, tmp_path: Path) -> None:
    path = segmenter(tmp_path / "s.safetensors", **NETWORKS[name])
    described = read_segmenter(path, use="this test")
    export_onnx(described, tmp_path / "s.onnx")
    entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "s.onnx").metadata_props}
    assert entries["class_names"].splitlines() == ["background", *CLASSES]
    assert entries[KEY] == described.metadata.header()[KEY]
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx", providers=["CPUExecutionProvider"])
    model = wsss.load(path)
    for size in ((64, 96), (65, 97), (47, 113), (160, 31)):
        pixels = picture(1, size)
        (logits,) = session.run(None, {"image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
        assert logits.shape == (1, 4, *size)
        found = np.exp(logits[0] - logits[0].max(0))
        np.testing.assert_allclose(found / found.sum(0), model(pixels, long_side=0).probabilities, atol=1e-4)


@pytest.mark.extended
def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    model = read_segmenter(segmenter(tmp_path / "s.safetensors"), use="this test")
    with pytest.raises(ValueError, match="nothing was written"):
        export_onnx(model, tmp_path / "s.onnx")
    assert not (tmp_path / "s.onnx").exists()
