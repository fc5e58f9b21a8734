"""`mlflow models serve` of a segmenter against a plain loop of decoding, network and argmax.

A request is a JPEG of 375 x 500 pixels in base64, the answer a PNG of its mask in base64. One server process, one
request at a time, one thread on both sides. The network is DeepLabv3+ on ResNet-50 with 21 classes and random weights,
since its values change no time. The loop does what the server must do besides: it decodes the JPEG, resizes the picture
to the size that the network learned from, and takes the argmax of the logits at the picture's size.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

import wsss
from cluster.tracking.served_segmenter import IMAGE, MASK, save_served
from shards.images import decode_image, decode_index_png
from tests.cluster.tracking.servers import free_port
from tests.wsss.use.made_models import write_model
from wsss.data.images import long_side_size, resize_image, to_tensor
from wsss.ops.multi_scale import resize_bilinear
from wsss.stages.train_segmenter import TrainSegmenter

SIZE, NUM_CLASSES, REPEATS, REQUESTS, BAR = (375, 500), 20, 3, 3, 0.7
STAGE = TrainSegmenter(encoder="resnet50", pretrained="none")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


def picture() -> bytes:
    """A JPEG with edges and colours."""
    random = np.random.default_rng(1)
    blocks = np.kron(random.integers(0, 256, (47, 63, 3)), np.ones((8, 8, 1))).astype(np.uint8)[: SIZE[0], : SIZE[1]]
    written = io.BytesIO()
    Image.fromarray(blocks).save(written, "JPEG", quality=90)
    return written.getvalue()


def plain(model: Any, jpeg: bytes) -> np.ndarray:
    """Decoding, network and argmax."""
    image = decode_image(jpeg)
    x_13HW = to_tensor(image, mean=STAGE.mean, std=STAGE.std)[None]
    x_13HW = resize_image(x_13HW, size=long_side_size(SIZE, long_side=model.learned_side))
    with torch.inference_mode():
        logits_1CHW = model.network(x_13HW)
        mask: np.ndarray = resize_bilinear(logits_1CHW, size=SIZE).argmax(1)[0].to(torch.uint8).numpy()
    return mask


def ask(address: str, jpeg: bytes) -> np.ndarray:
    """One request."""
    body = {"dataframe_records": [{IMAGE: base64.b64encode(jpeg).decode()}]}
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        found = json.loads(answer.read())
    return decode_index_png(base64.b64decode(found["predictions"][0][MASK]))


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, env={**os.environ, **ONE_THREAD, "PATH": path}, start_new_session=True, stdout=quiet, stderr=quiet
    )


def wait(address: str) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"{address}/ping", timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.3)
    raise RuntimeError("the model is not served after 180 s")


def cpu_seconds(server: subprocess.Popen[bytes]) -> float:
    """What the server has computed so far, all of its processes together."""
    root = psutil.Process(server.pid)
    times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def measure(model: Any, address: str, jpeg: bytes, server: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Median CPU seconds per picture of the loop and of the server, which alternate: with one thread and one request at
    a time these are the seconds of an idle machine, also on a busy one."""
    loop, served = [], []
    for repetition in range(REPEATS + 1):  # the first one warms up
        begun, before = time.process_time(), cpu_seconds(server)
        for _ in range(REQUESTS):
            plain(model, jpeg)
        here = time.process_time() - begun
        for _ in range(REQUESTS):
            ask(address, jpeg)
        if repetition:
            loop.append(here / REQUESTS)
            served.append((cpu_seconds(server) - before) / REQUESTS)
    return statistics.median(loop), statistics.median(served)


def main() -> None:
    torch.set_num_threads(1)
    jpeg, port = picture(), free_port()
    with tempfile.TemporaryDirectory() as temporary:
        classes = tuple(f"class_{number}" for number in range(NUM_CLASSES))
        weights = write_model(Path(temporary) / "weights.safetensors", STAGE, classes=classes)
        save_served(weights, Path(temporary) / "model", model_id="m-benchmark")
        model, address = wsss.load(weights), f"http://127.0.0.1:{port}"
        server = serve(Path(temporary) / "model", port)
        try:
            wait(address)
            same = float((plain(model, jpeg) == ask(address, jpeg)).mean())
            loop, served = measure(model, address, jpeg, server)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    checks = {"requests per second, for the loop's pictures per second": (loop / served, BAR)}
    print(f"loop {loop:.3f} s, served {served:.3f} s of CPU per picture; equal pixels {same:.6f}")
    shown = {what: {"value": value, "bar": bar, "ok": value >= bar} for what, (value, bar) in checks.items()}
    result = {"name": "serve", "ratio": loop / served, "agreement": same > 0.999, "error": 1 - same, "checks": shown}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
