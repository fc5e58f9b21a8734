"""Why a checkpoint could not be written, from what torch says of it, and whether another attempt can succeed."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cluster.checkpoint_space import explain_failed_save
from cluster.rank_failures import is_final
from shards.file_system_errors import FileSystemError
from tests.small_disk import small_disk

TORCH = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 736320 vs 736208")


def test_torch_on_a_disk_from_which_another_rank_has_removed_its_part(tmp_path: Path) -> None:
    """Its message names neither disk nor reason, and a trial file can be written again."""
    with small_disk(tmp_path / "disk", size="1m") as disk:
        error = explain_failed_save(TORCH, disk.path, what="the checkpoint step-00000001", needed=2_000_000)
        assert isinstance(error, FileSystemError) and is_final(error)
        assert str(error).startswith(
            f"cannot write {disk.path} (the checkpoint step-00000001): no space is left on its disk {disk.path} "
            "(1.05 MB free, about 2 MB needed); free some space"
        )


def test_torch_on_a_disk_with_room_is_tried_again_and_says_how_much_there_is(tmp_path: Path) -> None:
    error = explain_failed_save(TORCH, tmp_path, what="the checkpoint", needed=1_000)
    assert error is not None and not is_final(error)
    assert "unexpected pos 736320 vs 736208; its disk /" in str(error) and "about 1 kB needed" in str(error)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_errors_of_the_system_that_another_error_hides_are_not_tried_again(code: int, tmp_path: Path) -> None:
    hidden = RuntimeError("saving failed")
    hidden.__cause__ = OSError(code, "x")
    error = explain_failed_save(hidden, tmp_path, what="the checkpoint", needed=1)
    assert isinstance(error, FileSystemError) and is_final(error) and is_final(OSError(code, "x"))


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    assert explain_failed_save(RuntimeError("Connection reset by peer"), tmp_path, what="x", needed=1) is None
