from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from shards.id_colours import id_colours
from shards.images import encode_jpeg, encode_png
from tests.shards.test_images import deep_png
from wsss.__main__ import main
from wsss.stages.evaluation.check_imagenet_s import check_imagenet_s

MASK = np.array([[0, 300, 255], [256, 0, 7]], np.uint16)
GOOD = {"n01/a.png": encode_png(id_colours(MASK)), "n02/b.png": encode_png(id_colours(MASK)), "method.txt": b"ours\n"}
EXPECTED = {"n01/a": (2, 3), "n02/b": (2, 3)}


def packed(path: Path, **changes: bytes | None) -> Path:
    members = {**GOOD, **{name.replace("__", "/").replace("_dot_", "."): data for name, data in changes.items()}}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def test_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = packed(tmp_path / "results.zip", match_dot_json=b"{}")
    assert list(check_imagenet_s(path, num_classes=300, expected=EXPECTED)) == []
    assert main(["check-submission", str(path), "--format", "imagenet_s", "--num-classes", "300"]) == 0
    assert capsys.readouterr().out.startswith("in order\n")
    assert main(["check-submission", str(path), "--num-classes", "200"]) == 1


BLUE = id_colours(MASK).copy()
BLUE[0, 0, 2] = 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n02__b_dot_png": None}, "n02/b.png: missing"),
        ({"method_dot_txt": None}, "results.zip: the zip has no method.txt, the description of the method"),
        ({"n03__c_dot_png": GOOD["n01/a.png"]}, "n03/c.png: no such image in the list"),
        ({"flat_dot_png": GOOD["n01/a.png"]}, "flat.png: is not <wnid>/<name>.png, method.txt or match.json"),
        (
            {"n01__a_dot_png": encode_png(MASK)},
            "n01/a.png: it has mode I;16; allowed: RGB, with the class id R + 256 G",
        ),
        (
            {"n01__a_dot_png": encode_png(BLUE)},
            "n01/a.png: a pixel has B = 3; allowed: 0, since a class id is R + 256 G",
        ),
        (
            {"n01__a_dot_png": encode_jpeg(id_colours(MASK))},
            "n01/a.png: a mask of colours must be a PNG, this one is a JPEG",
        ),
        ({"n01__a_dot_png": deep_png(id_colours(MASK))}, "n01/a.png: it has 16 bits per channel; allowed: 8"),
        ({"n01__a_dot_png": encode_png(id_colours(MASK.T))}, "n01/a.png: is 2x3, but its image is 3x2"),
        ({"n01__a_dot_png": encode_png(id_colours(MASK + 1))}, "n01/a.png: holds the class id 301; allowed are 0..300"),
    ],
)
def test_faults(tmp_path: Path, changes: dict[str, bytes | None], text: str) -> None:
    path = packed(tmp_path / "results.zip", **changes)
    (fault,) = check_imagenet_s(path, num_classes=300, expected=EXPECTED)
    assert str(fault).startswith(text)


def test_what_cannot_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is not a readable zip file"):
        list(check_imagenet_s(tmp_path / "a.zip", num_classes=300))
    with pytest.raises(ValueError, match="there is no file"):
        list(check_imagenet_s(tmp_path / "b.zip", num_classes=300))
    path = packed(tmp_path / "c.zip")
    assert main(["check-submission", str(path), "--format", "imagenet_s", "--num-classes", "1000"]) != 0
    assert (
        "--num-classes 1000: allowed are 1..999, since 0 is background and 1000 is ignored" in capsys.readouterr().err
    )
