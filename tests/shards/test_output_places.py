from __future__ import annotations

from pathlib import Path

import pytest

from shards.output_places import check_output_file, check_output_folder


def test_a_place_that_can_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    check_output_file(tmp_path / "new" / "page.HTML", option="--output", endings=(".html", ".htm"))
    check_output_folder(tmp_path / "new" / "folder", option="OUT =")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused_with_those_that_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"--output .*one\.gif: name a file that ends in \.html or \.htm, which is what"
    ):
        check_output_file(tmp_path / "one.gif", option="--output", endings=(".html", ".htm"))


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "made.onnx").mkdir()
    with pytest.raises(ValueError, match=r"made\.onnx is a folder; name a file, such as .*made\.onnx/result\.onnx"):
        check_output_file(tmp_path / "made.onnx", option="--onnx", endings=(".onnx",))


@pytest.mark.parametrize("below", ["x.png", "deeper/x.png"])
def test_a_place_below_a_file_or_where_nothing_can_be_written_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=rf"--output .*{below}: {tmp_path}/file is a file, not a folder; name another"):
        check_output_file(tmp_path / "file" / below, option="--output", endings=(".png",))
    with pytest.raises(ValueError, match=r"OUT = /proc/.*: nothing can be written in /proc \(.*\); name another place"):
        check_output_folder(Path("/proc") / below, option="OUT =")
