from __future__ import annotations

import os
from pathlib import Path

from shards.work_notes import FILE_BYTES, keep_notes_in, name_work, named_work, note, noted, unpack


def test_notes_stand_in_the_file_and_are_replaced_in_place(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        keep_notes_in(descriptor)
        note(shard="train-000001", sample="a" * 5000)
        assert unpack(path.read_bytes()) == {"shard": "train-000001", "sample": "a" * 400}
        note(sample="é b")
        assert unpack(path.read_bytes()) == noted() == {"shard": "train-000001", "sample": "é b"}
        note(sample="")
        assert noted() == {"shard": "train-000001"}
        assert path.stat().st_size == FILE_BYTES
    finally:
        keep_notes_in(None)
        os.close(descriptor)
    assert noted() == {}


def test_damaged_notes_are_none() -> None:
    for data in (b"", b"\0" * 8, b"{", b"[]", b"\xff"):
        assert unpack(data) == {}


def test_work_named_on_an_exception_is_found_on_what_it_led_to() -> None:
    cause, error = ValueError("inner"), RuntimeError("outer")
    name_work(cause, sample="k1", shard="s1")
    name_work(cause, sample="k2", shard="")
    error.__cause__ = cause
    name_work(error, shard="s2")
    assert named_work(error) == {"sample": "k1", "shard": "s2"}
    assert cause.__notes__ == ["sample: k1", "shard: s1"]
