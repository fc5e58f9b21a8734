from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import wsss
from tests.wsss.use.made_models import CLASSES, picture, segmenter
from wsss.data.images import to_tensor
from wsss.use.loaded import LoadedSegmenter


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmenter(tmp_path_factory.mktemp("model") / "weights.safetensors")


@pytest.fixture(scope="module")
def model(path: Path) -> LoadedSegmenter:
    return wsss.load(path)


def test_one_view_is_the_network_and_nothing_else(model: LoadedSegmenter) -> None:
    pixels = picture(1, (37, 53))
    found = model(pixels, long_side=0)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    with torch.inference_mode():
        wanted_CHW = model.network(to_tensor(pixels, mean=mean, std=std)[None])[0].softmax(0).numpy()
    assert found.class_names == ("background", *CLASSES)
    assert found.probabilities.shape == (4, 37, 53) and found.mask.dtype == np.uint8
    np.testing.assert_allclose(found.probabilities, wanted_CHW, atol=1e-5)
    np.testing.assert_array_equal(found.mask, found.probabilities.argmax(0))
    assert sum(found.shares().values()) == pytest.approx(1)


def test_forms_of_a_picture_and_its_orientation(model: LoadedSegmenter, tmp_path: Path) -> None:
    pixels = picture(2, (31, 47))
    file = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored pixels are to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(file, exif=exif)
    upright = model(np.ascontiguousarray(np.rot90(pixels, -1)))
    assert upright.mask.shape == (47, 31)
    image = Image.open(file)
    for given in (file, str(file), file.read_bytes(), image):
        np.testing.assert_array_equal(model(given).mask, upright.mask)
    assert image.size == (47, 31), "the caller's image is left as it is"


def test_views_and_the_crf(model: LoadedSegmenter) -> None:
    pixels = picture(3, (40, 56))
    flipped = model(pixels, flip=True).probabilities
    mirrored = model(np.ascontiguousarray(pixels[:, ::-1]), flip=True).probabilities
    np.testing.assert_allclose(flipped, mirrored[..., ::-1], atol=1e-5)
    refined = model(pixels, refine="crf")
    np.testing.assert_allclose(refined.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(refined.mask, refined.probabilities.argmax(0))


def test_a_large_picture_is_seen_at_the_size_that_was_learned(model: LoadedSegmenter) -> None:
    assert model.learned_side == 48
    pixels = picture(4, (96, 192))
    seen: list[tuple[int, ...]] = []
    network = model._faster
    handle = network.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    hook = network.encoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    try:
        found = model(pixels)
    finally:
        handle.remove()
        hook.remove()
    assert seen == [(32, 48)], "24 x 48, with rows up to a multiple of the stride"
    assert found.mask.shape == (96, 192)


def test_wrong_pictures_and_options(model: LoadedSegmenter, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"u8\[H, W, 3\] in RGB, this one is float64\[3, 3\]"):
        model(np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"cannot read .*none\.jpg: No such file"):
        model(tmp_path / "none.jpg")
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.jpg: not a readable image"):
        model(text)
    with pytest.raises(ValueError, match="not a BytesIO"):
        model(io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"picture\)\.merge"):
        model(picture(1, (9, 9)), merge="median")  # type: ignore[arg-type]


def test_the_package_loads_nothing_until_it_is_used() -> None:
    code = "import sys, wsss; wsss.load; print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_device_that_is_not_there_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"device = 'gpu': allowed are cpu, cuda \(a GPU\), and cuda:1"):
        wsss.load(path, device="gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="device = 'cuda': torch finds no GPU here; use cpu"):
        wsss.load(path, device="cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match="device = 'cuda:2': there are 2 GPUs, from cuda:0 to cuda:1"):
        wsss.load(path, device="cuda:2")


@pytest.mark.parametrize("scales", [1.0, "0.5", None])
def test_scales_that_are_no_list_of_numbers(model: LoadedSegmenter, scales: object) -> None:
    with pytest.raises(ValueError, match=r"scales = .*: give several numbers, or one in brackets"):
        model(picture(1, (37, 53)), scales=scales)  # type: ignore[arg-type]
