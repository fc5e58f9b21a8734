"""Tars are the bytes that webdataset's writer and the standard library give, whatever a member is called."""

from __future__ import annotations

import hashlib
import io
import tarfile

import pytest
import webdataset as wds

from shards.tar_stream import TarStream

RECORDS = {
    "a": {"img": b"x" * 700, "json": b"{}"},
    "ILSVRC2013_train/n02085620/n02085620_22": {"json": b"", "img": b"y" * 512, "mask.png": b"z"},
    "l" * 96: {"img": b"as long as a header holds"},
    "l" * 97: {"img": b"a character longer", "json": b"1"},
    "folder/" * 60 + "deep": {"json": b"long"},
}


def stream(records: dict[str, dict[str, bytes]]) -> tuple[bytes, list[tuple[int, str]], str]:
    file = io.BytesIO()
    tar = TarStream(file)
    reported = [tar.add(stem, members) for stem, members in records.items()]
    digest = tar.finish()
    assert tar.num_bytes == len(file.getvalue())
    return file.getvalue(), reported, digest


@pytest.mark.parametrize("number", range(len(RECORDS) + 1))
def test_bytes_are_those_of_webdatasets_writer(number: int) -> None:
    records, expected = dict(list(RECORDS.items())[:number]), io.BytesIO()
    with wds.TarWriter(expected, encoder=False, mtime=0, user="wsss", group="wsss") as writer:
        for stem, members in records.items():
            writer.write({"__key__": stem, **members})
    assert stream(records)[0] == expected.getvalue()


def test_spans_and_digests_are_those_of_the_records() -> None:
    data, reported, digest = stream(RECORDS)
    assert hashlib.sha256(data).hexdigest() == digest
    start = 0
    for (stem, members), (length, of_record) in zip(RECORDS.items(), reported, strict=True):
        span = data[start : start + length]
        assert hashlib.sha256(span).hexdigest() == of_record
        with tarfile.open(fileobj=io.BytesIO(span)) as tar:
            found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
        assert found == {f"{stem}.{extension}": content for extension, content in sorted(members.items())}
        start += length


def test_a_name_beyond_ascii_and_a_huge_size_fall_back_to_the_standard_header() -> None:
    data, *_ = stream({"ü": {"img": b"1"}})
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["ü.img"]
