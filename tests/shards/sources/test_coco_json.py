from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.sources import coco_json
from shards.sources.coco_json import elements, read_index


@pytest.fixture
def reported() -> dict[str, Any]:
    """A file's content, with everything that JSON allows: blanks, escapes, other alphabets, brackets in strings."""
    generator = np.random.default_rng(2)
    names = [f"bild_ü{number}.jpg" for number in range(13)]
    return {
        "info": {"url": 'a "}]" \\ 中', "n": [1, [2]]},
        "licenses": [],
        "annotations": [
            {"id": n, "image_id": 3 * int(generator.integers(13)), "note": "é中", "x": [[1.5, -2e-3], {}]}
            for n in range(40)
        ],
        "images": [{"id": 3 * n, "file_name": name, "height": n + 1, "width": 7} for n, name in enumerate(names)],
        "number": 12345,
        "categories": [{"id": 7, "name": "ÿ"}, {"id": 1, "name": "中"}],
        "nothing": None,
    }


def read_back(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, start, end, value in elements(path):
        if key not in found:
            found[key] = [] if value is None and path.read_bytes()[start : start + 1] == b"[" else value
        else:
            found[key].append(value)
            assert json.loads(path.read_bytes()[start:end]) == value
    return found


@pytest.mark.parametrize("chunk", [1, 2, 7, 61, 1 << 22])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 3])
def test_read_in_pieces_as_in_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reported: dict[str, Any],
    chunk: int,
    ascii_only: bool,
    indent: int | None,
) -> None:
    monkeypatch.setattr(coco_json, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(reported, ensure_ascii=ascii_only, indent=indent).encode())
    assert read_back(path) == reported
    index = read_index(path)
    assert index.file_names == tuple(image["file_name"] for image in reported["images"])
    assert index.sizes.tolist() == [[image["height"], image["width"]] for image in reported["images"]]
    assert [(category.id, category.name) for category in index.categories] == [("1", "中"), ("7", "ÿ")]
    for place, image in enumerate(reported["images"]):
        assert index.annotations(place) == [one for one in reported["annotations"] if one["image_id"] == image["id"]]


def test_memory_stays_far_below_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    monkeypatch.setattr(coco_json, "_CHUNK", 100)
    path.write_text(json.dumps({"annotations": [{"id": n, "x": "y" * 50} for n in range(500)]}))
    longest = 0
    more = coco_json._Scanner._more

    def watch(self: coco_json._Scanner) -> None:
        nonlocal longest
        more(self)
        longest = max(longest, len(self._text))

    monkeypatch.setattr(coco_json._Scanner, "_more", watch)
    assert sum(1 for _ in elements(path)) == 501
    assert longest <= 400 < path.stat().st_size
