from __future__ import annotations

from pathlib import Path

import pytest

from wsss.use.picture_folder import find_pictures, key_of_picture, refuse_inside


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_pictures_are_found_by_their_extension_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path, "b.JPG", "a/c d.png", "a/b/e.webp", "notes.txt", ".hidden.jpg", ".git/f.jpg", "a/g.tar.jpeg")
    found = find_pictures(tmp_path)
    assert found.pictures == ("a/b/e.webp", "a/c d.png", "a/g.tar.jpeg", "b.JPG")
    assert (found.others, found.refused) == (1, {})
    assert [key_of_picture(name) for name in found.pictures] == ["a/b/e", "a/c d", "a/g.tar", "b"]


def test_names_that_no_mask_can_have_are_set_aside(tmp_path: Path) -> None:
    fill(tmp_path, "good.jpg", "back\\slash.jpg", "line\nbreak.jpg")
    found = find_pictures(tmp_path)
    assert found.pictures == ("good.jpg",)
    assert set(found.refused) == {"back\\slash.jpg", "line\nbreak.jpg"}


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a folder"):
        find_pictures(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no pictures \(bmp, gif, .*; it has 2 other files"):
        find_pictures(fill(tmp_path / "texts", "a.txt", "b.csv"))
    with pytest.raises(ValueError, match=r"has x/a\.jpg and x/a\.png, which differ only in their extension"):
        find_pictures(fill(tmp_path / "twice", "x/a.jpg", "x/a.png"))
    refuse_inside(tmp_path / "out", tmp_path / "in")
    for out in (tmp_path / "in", tmp_path / "in" / "out", tmp_path / "other" / ".." / "in" / "out"):
        with pytest.raises(ValueError, match="is inside IN"):
            refuse_inside(out, tmp_path / "in")
