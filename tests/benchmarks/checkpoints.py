"""Would it pay to write checkpoints in the background? Measures what a training waits for, and what a thread saves.

    .venv/bin/python -m tests.benchmarks.checkpoints [FOLDER]

FOLDER is where checkpoints are written (default: a temporary folder). The network is a ResNet-50 with 21 classes and
SGD's momentum, on the CPU. A thread would have to copy all tensors before the training may continue, and could take
over the conversion to bytes, the hash, the writing and the flush to disk. The ratio is what the training waits for
today ÷ what it would wait for then.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import timm
import torch
from safetensors.torch import load, save

from shards.files import write_bytes

REPETITIONS = 5
STEP_IMAGES = 16


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    network = timm.create_model("resnet50", num_classes=21)
    state = {f"module/{name}": value.detach().clone() for name, value in network.state_dict().items()}
    state |= {
        f"optimizer/momentum_buffer/{name}": torch.randn_like(value) for name, value in network.named_parameters()
    }
    copied, written = [], []
    for _ in range(REPETITIONS):
        copied.append(seconds(lambda: {name: value.clone() for name, value in state.items()}))
        data = b""

        def write() -> None:
            nonlocal data
            data = save(state)
            hashlib.sha256(data).hexdigest()
            write_bytes(folder / "step.safetensors", data)

        written.append(seconds(write))
    images = torch.randn(STEP_IMAGES, 3, 256, 256)
    step = seconds(lambda: network(images).sum().backward())
    waited, needed = median(written), median(copied)
    report = {
        "name": "checkpoints",
        "ratio": waited / needed,
        "agreement": all(torch.equal(value, state[name]) for name, value in load(data).items()),
        "error": 0.0,
        "checks": {
            "a checkpoint / a step of 16 images": {"value": waited / step, "bar": 0.5, "ok": waited / step <= 0.5}
        },
        "megabytes": len(data) / 1e6,
        "seconds": {"copied": needed, "converted, hashed, written and flushed": waited, "a step": step},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
