"""Labels with one class hidden in a part of the images."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tuning.unchecked_labels import hidden, main

LABELS = {f"{i:04}": ["cat", "person"] if i % 2 else ["dog"] for i in range(400)}


def test_the_class_is_unknown_in_about_the_share_whether_shown_or_not() -> None:
    keys = set(list(LABELS)[:300])
    found = hidden(LABELS, "person", keys=keys, share=0.5)
    unchecked = {key for key, entry in found.items() if isinstance(entry, dict)}
    assert unchecked <= keys and len(unchecked) == pytest.approx(150, abs=30)
    assert {len(LABELS[key]) for key in unchecked} == {1, 2}
    for key, entry in found.items():
        rest = [name for name in LABELS[key] if name != "person"]
        assert entry == ({"present": rest, "unknown": ["person"]} if key in unchecked else LABELS[key])


def test_a_smaller_share_is_a_part_of_a_larger_one_and_other_images_change_nothing() -> None:
    def unchecked(share: float, labels: dict[str, list[str]]) -> set[str]:
        found = hidden(labels, "person", keys=set(LABELS), share=share)
        return {key for key, entry in found.items() if isinstance(entry, dict)}

    assert unchecked(0.2, LABELS) < unchecked(0.6, LABELS)
    some = dict(list(LABELS.items())[::3])
    assert unchecked(0.6, some) == unchecked(0.6, LABELS) & set(some)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    (tmp_path / "list.txt").write_text("\n".join(LABELS))
    files = ["--labels", str(tmp_path / "labels.json"), "--list", str(tmp_path / "list.txt")]
    files += ["--out", str(tmp_path / "out.json")]
    assert main(["person", *files]) == 0
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found == hidden(LABELS, "person", keys=set(LABELS), share=0.5)
    hidden_in = [key for key, entry in found.items() if isinstance(entry, dict)]
    assert f"unknown in {len(hidden_in)} of 400 images" in capsys.readouterr().out
    for wrong, message in ((["horse"], "no image in .* is labelled 'horse'"), (["cat", "--share", "1"], "above 0 and")):
        with pytest.raises(SystemExit):
            main([*wrong, *files])
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("labels", "keys", "out", "message"),
    [
        (
            '{"a": ["cat"]}',
            "a zzz yyy",
            "out.json",
            r"--list .*list.txt names 'yyy' \(2 such\), without labels in",
        ),
        ('{"a": {"present": [], "unknown": ["cat"]}}', "a", "out.json", "the entry of 'a' is no list of names"),
        ('["a"]', "a", "out.json", r"--labels .*labels.json is not of the form {key: \[names\]}"),
        ("abc", "a", "out.json", r"--labels .*labels.json is not a JSON file"),
        ('{"a": ["cat"]}', "a", ".", r"--out .*: name a file that ends in .json"),
    ],
)
def test_wrong_files(
    labels: str, keys: str, out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.json").write_text(labels)
    (tmp_path / "list.txt").write_text(keys)
    files = ["--labels", str(tmp_path / "labels.json"), "--list", str(tmp_path / "list.txt")]
    with pytest.raises(SystemExit):
        main(["cat", *files, "--out", str(tmp_path / out)])
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert {path.name for path in tmp_path.iterdir()} == {"labels.json", "list.txt"}
