"""Reading, decoding and augmenting on this machine's cores: the reader of a training against no loader.

    .venv/bin/python -m tests.benchmarks.streaming --folder FOLDER     # FOLDER keeps the drawn files

2,000 drawn JPEGs of 500 x 375 pixels and 110 KB, crops of 352 pixels, one process per core on every side:

- pure: decode_image, the augmentation and to_tensor over bytes in memory; no loader, results are not passed on;
- ours: the batches of a rank of train_classifier (cluster/training/batches.py) from built shards, loader_workers =
  cores;
- torch: ImageFolder and DataLoader over the same files, the same augmentation as its transform;
- webdataset: tars of jpg and cls, shuffle, decode, map, batched, as in its documentation, the same transform.

All files were read once before. Speeds are measured in steady state: the first and the last batches are left out.
Separate rows: decoding a large JPEG at half its size if the augmentation shrinks it anyway, and turbo's own decoder
(package simplejpeg, if it is installed), each with the difference in the pixels.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import itertools
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from cluster.shard_work import ShardExecutor
from cluster.training.batches import RankBatches
from cluster.training.memory import keep_freed_memory
from shards.images import decode_image
from tests.shards.sources.photographs import photograph, photographs
from tests.wsss.layers import instance_of
from wsss.contract.stage import Instance, Map
from wsss.data.augment import Augmentation, augment, fill_colour
from wsss.data.images import to_tensor
from wsss.stages.build_shards import BuildShards
from wsss.stages.train_classifier import TrainClassifier

CORES = len(os.sched_getaffinity(0))
CROP, BATCH, SHARD_SIZE, COMPARED = 352, 32, 128, 64
PURE_BAR, RIVALS_BAR, ERROR_BAR = 0.9, 1.0, 0.0


class Transform:
    """The stage's augmentation with a random generator of the caller, for loaders with an order of their own."""

    def __init__(self, stage: TrainClassifier) -> None:
        self._stage, self._compose = stage, None

    def __call__(self, image: Any) -> torch.Tensor:
        if self._compose is None:
            self._compose = augmentation(self._stage).compose()
        changed, _ = augment(
            self._compose, np.asarray(image), mask_HW=None, seed=random.getrandbits(30), epoch=0, key=""
        )
        return to_tensor(changed, mean=self._stage.mean, std=self._stage.std)


def augmentation(stage: TrainClassifier) -> Augmentation:
    return Augmentation(
        crop_size=stage.crop_size,
        resize_long=stage.resize_long,
        colour_jitter=stage.colour_jitter,
        fill=fill_colour(stage.mean),
    )


def rate_of(batches: Iterable[Any], *, first: int, last: int) -> float:
    """Images per second from the end of batch `first` to the end of batch `last`."""
    times: list[float] = []
    for _ in itertools.islice(batches, last + 1):
        times.append(time.perf_counter())
    return BATCH * (last - first) / (times[last] - times[first])


def pure_share(stage: TrainClassifier, files: Sequence[Path], barrier: Barrier, rates: Any) -> None:
    """One core's share of the files, decoded and augmented from memory."""
    torch.set_num_threads(1)
    compose = augmentation(stage).compose()
    data = [(path.name, path.read_bytes()) for path in files]

    def make(key: str, encoded: bytes) -> torch.Tensor:
        image, _ = augment(compose, decode_image(encoded), mask_HW=None, seed=3, epoch=0, key=key)
        return to_tensor(image, mean=stage.mean, std=stage.std)

    for name, encoded in data[:BATCH]:
        make(name, encoded)
    barrier.wait()
    start = time.perf_counter()
    for name, encoded in data:
        make(name, encoded)
    rates.put(len(data) / (time.perf_counter() - start))


def pure(stage: TrainClassifier, files: Sequence[Path]) -> float:
    """Images per second of all cores together."""
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(CORES), context.Queue()
    shares = [(stage, files[core::CORES], barrier, rates) for core in range(CORES)]
    processes = [context.Process(target=pure_share, args=share) for share in shares]
    for process in processes:
        process.start()
    found = [rates.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(found)


def samples_of_files(folder: Path, files: Sequence[Path]) -> Instance:
    """The files as a layer, by the stage that builds it."""
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels", "split"])
        root = files[0].parent.parent
        writer.writerows([path.relative_to(root).as_posix(), path.parent.name, "train"] for path in files)
    stage = BuildShards(
        source="folder",
        root=str(root),
        lists={"train": str(folder / "table.csv")},
        splits=("train",),
        shard_size=SHARD_SIZE,
    )
    instance = instance_of(stage, folder)
    assert isinstance(instance.stage, Map)
    for shard in instance.stage.shards(instance):
        ShardExecutor(threads=1).make_shard(instance, shard)
    instance.layer.complete(instance.stage.shards(instance), classes=instance.taxonomy.names)
    return instance


def batches_of(trained: Instance) -> RankBatches:
    stage = trained.stage
    assert isinstance(stage, TrainClassifier)
    return RankBatches(stage.training_set(trained), stage, rank=0, world_size=1, device=torch.device("cpu"))


def ours(trained: Instance, num_images: int) -> float:
    """The second of three epochs: workers are busy before it and after it."""
    batches = batches_of(trained)
    first, last = (end - 1 for end in batches.epoch_ends[:2])
    stream = batches.after(0)
    try:
        return rate_of(stream, first=first, last=last) * num_images / (BATCH * (last - first))
    finally:
        stream.close()  # type: ignore[attr-defined]


def repeated(loader: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from loader


def image_folder(stage: TrainClassifier, folder: Path, num_images: int) -> float:
    """torch's loader; whole epochs with one set of workers."""
    loader = DataLoader(
        ImageFolder(str(folder), transform=Transform(stage)),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=CORES,
        persistent_workers=True,
    )
    per_epoch = num_images // BATCH
    # Its workers are idle between epochs: two epochs are measured, from one start to another.
    return rate_of(repeated(loader), first=per_epoch, last=3 * per_epoch)


def plain_tars(folder: Path, files: Sequence[Path]) -> list[str]:
    """Tars written as in webdataset's documentation."""
    names = [f"{folder}/plain-{number:06d}.tar" for number in range(-(-len(files) // SHARD_SIZE))]
    for number, name in enumerate(names):
        with wds.TarWriter(name) as writer:
            for path in files[number * SHARD_SIZE : (number + 1) * SHARD_SIZE]:
                label = int(path.parent.name.rpartition("_")[2])
                writer.write({"__key__": path.stem, "jpg": path.read_bytes(), "cls": label})
    return names


def webdataset(stage: TrainClassifier, tars: list[str], num_images: int) -> float:
    data = (
        wds.WebDataset(tars, shardshuffle=100)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(Transform(stage))
        .batched(BATCH)
        .repeat()
    )
    loader = wds.WebLoader(data, batch_size=None, num_workers=CORES)
    per_epoch = num_images // BATCH
    return rate_of(loader, first=per_epoch, last=2 * per_epoch)


def error_of(trained: Instance, files: Sequence[Path]) -> float:
    """Largest difference between the first images of our reader and those computed from their files."""
    stage = trained.stage
    assert isinstance(stage, TrainClassifier)
    compose = augmentation(stage).compose()
    root, error, seen = files[0].parent.parent, 0.0, 0
    stream = batches_of(trained).after(0)
    for parts in itertools.islice(stream, -(-COMPARED // BATCH)):
        for key, delivered in zip(parts[0].batch["key"], parts[0].batch["image"], strict=True):
            encoded = next(path for path in (root / key, root / f"{key}.jpg") if path.exists()).read_bytes()
            image, _ = augment(compose, decode_image(encoded), mask_HW=None, seed=trained.seed, epoch=0, key=key)
            error = max(error, float((to_tensor(image, mean=stage.mean, std=stage.std) - delivered).abs().max()))
            seen += 1
    stream.close()  # type: ignore[attr-defined]
    return error if seen >= COMPARED else float("inf")


def seconds_of(call: Any, arguments: Sequence[bytes]) -> float:
    start = time.perf_counter()
    for argument in arguments:
        call(argument)
    return (time.perf_counter() - start) / len(arguments)


def at_half(encoded: bytes) -> np.ndarray:
    """A JPEG decoded at half its size by the decoder's scaling."""
    image = Image.open(io.BytesIO(encoded))
    image.draft("RGB", (image.width // 2, image.height // 2))
    return np.asarray(image)


def other_decoders(folder: Path) -> dict[str, dict[str, float]]:
    """Speed against decode_image, and the difference in grey levels."""
    large = [photograph(number, height=1500, width=2000) for number in range(4)]
    small = [photograph(number) for number in range(64)]

    def shrunk(image_HW3: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image_HW3).resize((640, 480), Image.Resampling.BOX), dtype=np.int16)

    def compared(fast: Any, files: Sequence[bytes], seen: Any) -> dict[str, float]:
        pairs = [(seconds_of(decode_image, files), seconds_of(fast, files)) for _ in range(3)]
        off = np.abs(seen(fast(files[0])).astype(np.int16) - seen(decode_image(files[0])))
        speed = statistics.median(slow for slow, _ in pairs) / statistics.median(quick for _, quick in pairs)
        return {"speed": speed, "mean difference": float(off.mean()), "largest difference": float(off.max())}

    rows = {"2000 x 1500 at a half, seen at 640 x 480": compared(at_half, large, shrunk)}
    try:
        simplejpeg = importlib.import_module("simplejpeg")
    except ImportError:
        return rows
    return rows | {"simplejpeg, 500 x 375": compared(simplejpeg.decode_jpeg, small, lambda image: image)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the files are drawn, and kept for the next run")
    parser.add_argument("--repetitions", type=int, default=3, help="alternating runs of all sides")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every rank does
    rates: dict[str, list[float]] = {side: [] for side in ("pure", "ours", "ImageFolder", "webdataset")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = (options.folder or folder) / "photographs"
        files = photographs(drawn, options.images)
        samples, tars = samples_of_files(folder, files), plain_tars(folder, files)
        stage = TrainClassifier(
            crop_size=CROP, batch_size=BATCH, num_epochs=3, loader_workers=CORES, validation_split=""
        )
        trained = instance_of(stage, folder, samples=samples)
        error = error_of(trained, files)
        for _ in range(options.repetitions):
            rates["pure"].append(pure(stage, files))
            rates["ours"].append(ours(trained, options.images))
            rates["ImageFolder"].append(image_folder(stage, drawn, options.images))
            rates["webdataset"].append(webdataset(stage, tars, options.images))
        decoders = other_decoders(folder)
    medians = {side: statistics.median(found) for side, found in rates.items()}
    checks = {}
    for side, bar in (("pure", PURE_BAR), ("ImageFolder", RIVALS_BAR), ("webdataset", RIVALS_BAR)):
        value = medians["ours"] / medians[side]
        checks[f"ours / {side}"] = {"value": value, "bar": bar, "ok": value >= bar}
    report = {"name": "streaming", "ratio": medians["ours"] / medians["pure"], "agreement": error <= ERROR_BAR}
    report |= {"error": error, "checks": checks, "cores": CORES, "decoders": decoders, "images_per_second": rates}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
