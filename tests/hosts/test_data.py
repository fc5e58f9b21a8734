"""Photographs and shards into the cluster, results back to the laptop, by the commands of cluster/README.md."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pytest

from tests.faults.bench import Bench
from tests.hosts.ray_cluster import FILE
from tests.hosts.runs import Runs

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]

PHOTOGRAPHS = """
import pathlib, numpy, PIL.Image
folder = pathlib.Path.home() / "photographs"
(folder / "images").mkdir(parents=True, exist_ok=True)
lines, draw = ["image,labels"], numpy.random.default_rng(3)
for number in range(12):
    PIL.Image.fromarray(draw.integers(0, 255, (48, 64, 3), numpy.uint8)).save(folder / "images" / f"{number}.jpg")
    lines.append(f"images/{number}.jpg,{'cat|dog' if number % 3 else 'dog'}")
(folder / "train.csv").write_text("\\n".join(lines) + "\\n")
"""
FROM_FOLDER = """
[recipe]
name = "photographs"
[stages.build_shards]
source = "folder"
root = "/mnt/shared/data/photographs"
lists = { train = "train.csv" }
splits = ["train"]
shard_size = 4
"""
FROM_BUCKET = """
[recipe]
name = "bucket"
[stages.build_shards]
source = "shards"
root = "s3://data/toy"
[stages.train_classifier]
encoder = "test_efficientnet"
pretrained = "none"
norm = "synchronised"
world_size = 2
crop_size = 64
resize_long = [48, 80]
batch_size = 8
num_epochs = 1
"""
UPLOAD = """
import boto3, pathlib, sys
bucket = boto3.client("s3")
bucket.create_bucket(Bucket="data")
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if path.suffix == ".tar" or path.name == "index.json" or path.with_suffix(".tar").exists():
        bucket.upload_file(str(path), "data", f"toy/{path.name}")
"""


def test_photographs_go_into_the_shared_folder_and_become_shards(bench: Bench) -> None:
    laptop = bench.cluster.laptop
    (laptop.home / "photographs.py").write_text(PHOTOGRAPHS)
    laptop.run("python ~/photographs.py")
    (laptop.home / "wsss" / "photographs.toml").write_text(FROM_FOLDER)
    bench.cluster.on_laptop(f"ray exec {FILE} 'mkdir -p /mnt/shared/data' < /dev/null")
    bench.cluster.on_laptop(f"ray rsync-up {FILE} ~/photographs/ /mnt/shared/data/photographs/")
    runs = Runs(bench.cluster.lab.shared, "photographs")
    settings = f"--set runtime.runs={runs.inside} --set runtime.num_actors=2"
    submit = "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 ray job submit --no-wait --submission-id photographs"
    bench.cluster.on_laptop(f"{submit} --working-dir . -- wsss run photographs.toml --on auto {settings}")
    bench.cluster.job("photographs").succeeds(timeout=240)
    assert len(runs.shards_done("build_shards")) == 3


def test_weights_masks_and_submission_come_back(bench: Bench) -> None:
    runs = Runs(bench.cluster.lab.shared, "back")
    runs.copy_from(bench.reference.wait(), ["train_segmenter", "predict"])
    (runs.folder / "hosts").mkdir()
    (archive,) = (bench.reference.folder / "hosts").glob("submit-*.zip")
    (runs.folder / "hosts" / archive.name).write_bytes(archive.read_bytes())
    bench.cluster.on_laptop(f"ray rsync-down {FILE} {runs.inside}/ ~/back/")
    sent, arrived = files(runs.folder), files(bench.cluster.laptop.home / "back")
    assert sent == arrived
    assert {"weights.safetensors", archive.name, "val-000000.tar"} <= {Path(name).name for name in arrived}


def test_a_training_reads_shards_from_a_bucket_on_every_host(bench: Bench) -> None:
    """The bucket is moto's, on the laptop; `aws s3 sync` would put the same objects there."""
    laptop, port = bench.cluster.laptop, 9000
    variables = {
        "AWS_ENDPOINT_URL_S3": f"http://{laptop.address}:{port}",
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    log = bench.cluster.lab.folder / "moto.log"
    server = laptop.background(f"exec python -m moto.server --host {laptop.address} --port {port}", log=log)
    try:
        upload_shards(bench, variables)
        recipe = bench.cluster.lab.shared / "bucket.toml"
        recipe.write_text(FROM_BUCKET)
        runs = Runs(bench.cluster.lab.shared, "bucket")
        settings = f"--set runtime.runs={runs.inside} --set runtime.num_actors=2 --set runtime.placement=STRICT_SPREAD"
        command = f"wsss run /mnt/shared/bucket.toml --on auto {settings} --set build_shards.cache={bench.home}/cache"
        bench.cluster.dashboard.submit(command, name="bucket", variables=variables).succeeds(timeout=300)
        for host in bench.hosts:
            assert f"{host.address} - - " in log.read_text(), f"{host.name} fetched nothing"
    finally:
        for process in laptop.find("moto.server"):
            laptop.kill(process)
        server.wait()


def upload_shards(bench: Bench, variables: dict[str, str]) -> None:
    laptop = bench.cluster.laptop
    runs = Runs(bench.cluster.lab.shared, "to_upload")
    runs.copy_from(bench.reference.wait(), ["build_shards"])
    bench.cluster.on_laptop(f"ray rsync-down {FILE} {runs.inside}/ ~/to_upload/")
    (laptop.home / "upload.py").write_text(UPLOAD)
    export = " ".join(f"{name}={value}" for name, value in variables.items())
    end = time.monotonic() + 60
    command = f"{export} python ~/upload.py ~/to_upload/store/build_shards-*"
    while "Could not connect" in (printed := laptop.run(command, check=False)) and time.monotonic() < end:
        time.sleep(1)
    assert "Error" not in printed, printed


def files(folder: Path) -> dict[str, str]:
    """Name -> digest of every file, except locks."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }
