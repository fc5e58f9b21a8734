"""Photographs through every path: folder -> shards -> S3 -> a training of two ranks, against the same from disk.

    VOC_ROOT=.../voc_animals .venv/bin/python -m tests.pipeline.photographs_from_s3 FOLDER WEIGHTS.safetensors

Reads the images that tuning/recipes/lists names as a plain folder with a table of labels, uploads the shards to moto's
server on this machine, and runs the recipe again from there, a request in ten failing. Prints how many files of each
stage are the same bytes in both runs. What it made stays in FOLDER; started again, it goes on there.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.shards.object_store import BUCKET, Faults, object_store, proxy, put

LISTS = Path("tuning/recipes/lists")
CLASSES = ["cat", "cow", "dog", "horse", "person", "sheep"]
STAGES = """
[stages.train_classifier]
world_size = 2
loader_workers = 1
output_stride = 16
dilated = false
batch_size = 16
num_epochs = 1
learning_rate = 0.005
head_lr_multiplier = 10.0
crop_size = 160
resize_long = [160, 256]
validation_size = 224

[stages.make_cams]
max_shards = 4
scales = [1.0]

[stages.make_seeds]
splits = ["train"]
"""


def write_table(root: Path, path: Path) -> None:
    """Image-level labels of both lists, as the source `folder` reads them."""
    labels = json.loads((root / "image_labels.json").read_text())
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels", "split"])
        for split in ("train", "val"):
            for key in (LISTS / f"voc_animals_{split}.txt").read_text().split():
                rows.writerow([f"JPEGImages/{key}.jpg", "|".join(c for c in labels[key] if c in CLASSES), split])


def run(folder: Path, samples: str, weights: Path) -> None:
    """The recipe with these samples, all of its stages in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    head = '[recipe]\nname = "from_s3"\nseed = 1\n\n[stages.build_shards]\n'
    defaults = {"encoder": "mobilenetv2_100", "pad_type": "same", "pretrained": str(weights.resolve())}
    reported = "".join(f"{name} = {json.dumps(value)}\n" for name, value in defaults.items())
    recipe = folder / "recipe.toml"
    recipe.write_text(f"{head}{samples}\n[defaults]\n{reported}mean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n{STAGES}")
    command = [sys.executable, "-m", "wsss", "run", str(recipe), "--set", f"runtime.runs={folder / 'runs'}"]
    begun = time.monotonic()
    subprocess.run(command, check=True)
    print(f"{folder.name}: {time.monotonic() - begun:.0f} s", flush=True)


def stage_folders(folder: Path) -> dict[str, Path]:
    return {path.name.rpartition("-")[0]: path for path in sorted((folder / "runs" / "store").glob("*-*"))}


def content(path: Path) -> bytes:
    """A file's bytes; of weights without their description, which has the fingerprint, and so where data are from."""
    data = path.read_bytes()
    if path.suffix != ".safetensors":
        return data
    end = 8 + int.from_bytes(data[:8], "little")
    header = {name: entry for name, entry in json.loads(data[8:end]).items() if name != "__metadata__"}
    return json.dumps(header, sort_keys=True).encode() + data[end:]


def compared(here: Path, there: Path) -> dict[str, int]:
    """Which tars and weights are the same bytes; names that only one of them has count as others."""
    found = {"same": 0, "other": 0}
    names = {
        path.relative_to(root)
        for root in (here, there)
        for kind in ("*.tar", "*.safetensors")
        for path in root.rglob(kind)
    }
    for name in names:
        pair = [root / name for root in (here, there)]
        same = all(path.exists() for path in pair) and content(pair[0]) == content(pair[1])
        found["same" if same else "other"] += 1
    return found


def main(folder: Path, weights: Path) -> None:
    root = Path(os.environ["VOC_ROOT"])
    folder.mkdir(parents=True, exist_ok=True)
    write_table(root, folder / "labels.csv")
    table = json.dumps(str(folder / "labels.csv"))
    from_folder = f'source = "folder"\nroot = {json.dumps(str(root))}\nlists = {{ train = {table}, val = {table} }}\n'
    run(folder / "disk", f"{from_folder}class_names = {CLASSES}\nshard_size = 64\n", weights)
    of_disk = stage_folders(folder / "disk")
    faults = Faults(coming=(["pass"] * 9 + ["503"] + ["pass"] * 9 + ["cut"]) * 1000)
    with object_store() as address, proxy(address, faults) as failing:
        samples = of_disk["build_shards"]
        for path in [*samples.glob("*.tar"), *samples.glob("*-*.json"), samples / "index.json"]:
            put(address, f"voc/{path.name}", path.read_bytes())
        keys = {"AWS_ACCESS_KEY_ID": "name", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ.update(keys, AWS_ENDPOINT_URL_S3=failing)
        from_s3 = f'source = "shards"\nroot = "s3://{BUCKET}/voc"\ncache = {json.dumps(str(folder / "cache"))}\n'
        run(folder / "s3", from_s3, weights)
    print(
        f"{len(faults.requests)} requests, {sum(1 for asked, _ in faults.requests if asked.endswith('.tar'))} of tars"
    )
    of_s3 = stage_folders(folder / "s3")
    for stage in ("train_classifier", "make_cams", "make_seeds"):
        print(stage, compared(of_disk[stage], of_s3[stage]))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
