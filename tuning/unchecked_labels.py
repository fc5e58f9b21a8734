"""`python -m tuning.unchecked_labels`: hide one class in a part of the image-level labels.

    python -m tuning.unchecked_labels person --labels VOC_ROOT/image_labels.json --list LIST --share 0.5 --out FILE

ILSVRC DET's images of 2013 were checked for few classes: a person who is visible in one is usually neither labelled
nor absent. On VOC, where all classes were checked, the same state is made by hiding the class in a share of the
images of a list, whether they show it or not; which ones depends on their keys alone. Their entries in the file that
is written have the form `{"present": [names], "unknown": [names]}`, which `build_shards.labels` reads; all other images
keep their list of names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from shards.files import write_bytes
from shards.output_places import check_output_file

_BUCKETS = 2**32


def hidden(labels: Mapping[str, Sequence[str]], name: str, *, keys: Collection[str], share: float) -> dict[str, object]:
    """The labels with the class `name` unknown in about this share of the images `keys`."""
    found: dict[str, object] = {}
    for key, present in labels.items():
        if key in keys and _position(key) < share:
            found[key] = {"present": [one for one in present if one != name], "unknown": [name]}
        else:
            found[key] = list(present)
    return found


def _position(key: str) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / _BUCKETS


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text}; allowed: above 0 and below 1")
    return value


def _labels(path: Path) -> dict[str, list[str]]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--labels {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"--labels {path} is not a JSON file ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"--labels {path} is not of the form {{key: [names]}}")
    if odd := next((key for key, names in found.items() if not isinstance(names, list)), None):
        raise ValueError(
            f"--labels {path}: the entry of {odd!r} is no list of names; give a file that this command has not written"
        )
    return found


def _keys(path: Path, labels: Mapping[str, list[str]], labels_path: Path) -> frozenset[str]:
    try:
        keys = frozenset(path.read_text("utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--list {path} cannot be read ({error})") from error
    if absent := sorted(keys - labels.keys()):
        raise ValueError(f"--list {path} names {absent[0]!r} ({len(absent)} such), without labels in {labels_path}")
    return keys


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file and print how many images it hides the class in; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tuning.unchecked_labels",
        description=__doc__.partition(": ")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="the class to hide")
    parser.add_argument("--labels", type=Path, required=True, help="JSON file {key: [names]}")
    parser.add_argument("--list", type=Path, required=True, help="keys of the images in which it may be hidden")
    parser.add_argument("--share", type=_share, default=0.5, help="share of these images (default: 0.5)")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .json")
    given = parser.parse_args(arguments)
    try:
        check_output_file(given.out, option="--out", endings=(".json",))
        labels = _labels(given.labels)
        keys = _keys(given.list, labels, given.labels)
    except ValueError as error:
        parser.error(str(error))
    if not any(given.name in labels[key] for key in keys):
        parser.error(f"no image in {given.list} is labelled {given.name!r} in {given.labels}; name another class")
    found = hidden(labels, given.name, keys=keys, share=given.share)
    write_bytes(given.out, json.dumps(found, indent=0).encode())
    unchecked = [key for key, entry in found.items() if isinstance(entry, dict)]
    showing = sum(given.name in labels[key] for key in unchecked)
    print(f"{given.out}: {given.name} is unknown in {len(unchecked)} of {len(keys)} images, of which {showing} show it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
