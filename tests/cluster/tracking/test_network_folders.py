from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.tracking import network_folders, tracking_address
from cluster.tracking.network_folders import NetworkMount, network_mount
from cluster.tracking.outbox import Outbox
from cluster.tracking.tracker import MlflowTracker
from wsss.contract.runtime import PipelineRecord

MOUNTS = """\
overlay / overlay rw 0 0
proc /proc proc rw 0 0
/dev/vda {at}/disk ext4 rw 0 0
server:/export {at}/shared nfs4 rw,vers=4.1 0 0
//server/share {at}/with\\040space cifs rw 0 0
me@host:/ {at}/sshfs fuse.sshfs rw 0 0
overlay {at}/rootless fuse.fuse-overlayfs rw 0 0
mds:/ {at}/lustre lustre rw 0 0
/dev/vda {at}/shared/scratch xfs rw 0 0
server:/export {at}/under nfs rw 0 0
/dev/vda {at}/under ext4 rw 0 0
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS.format(at=tmp_path))
    return path


@pytest.mark.parametrize(
    ("folder", "kind", "mounted"),
    [
        ("shared", "nfs4", "shared"),
        ("shared/runs/not/there/yet", "nfs4", "shared"),
        ("with space/runs", "cifs", "with space"),
        ("sshfs", "fuse.sshfs", "sshfs"),
        ("lustre/me", "lustre", "lustre"),
    ],
)
def test_network(folder: str, kind: str, mounted: str, mounts: Path, tmp_path: Path) -> None:
    assert network_mount(tmp_path / folder, mounts=mounts) == NetworkMount(kind, tmp_path / mounted)


@pytest.mark.parametrize("folder", ["", "disk", "shared-not", "shared/scratch/runs", "rootless", "under"])
def test_local(folder: str, mounts: Path, tmp_path: Path) -> None:
    assert network_mount(tmp_path / folder, mounts=mounts) is None


def test_link_into_a_network_folder_is_followed(mounts: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    assert network_mount(tmp_path / "link" / "runs", mounts=mounts) is not None


def test_without_a_list_of_mounts_nothing_is_known(tmp_path: Path) -> None:
    assert network_mount(tmp_path, mounts=tmp_path / "none") is None


def test_no_database_is_made_in_a_network_folder(mounts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records of a run without a server wait in its folder, and the next run with one delivers them."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    known = network_folders.network_mount
    monkeypatch.setattr(tracking_address, "network_mount", lambda path: known(path, mounts=mounts))
    runs, said = tmp_path / "shared" / "runs", StringIO()
    tracker = MlflowTracker(uri="", runs=runs, console=Console(file=said, width=1000))
    tracker.pipeline_finished(PipelineRecord("toy", "0" * 64), {"val.mean_iou": 0.5}, {})
    assert "nfs4 at" in said.getvalue() and "with runtime.tracking_uri or MLFLOW_TRACKING_URI to a" in said.getvalue()
    assert not (runs / "mlflow.db").exists() and len(Outbox(runs / "outbox").waiting()) == 1
    said = StringIO()
    MlflowTracker(uri=f"sqlite:///{tmp_path}/mlflow.db", runs=runs, console=Console(file=said, width=1000))
    assert "now in MLflow: 1 record of earlier runs" in said.getvalue() and not Outbox(runs / "outbox").waiting()
    with pytest.raises(ValueError, match=r"nfs4 at .*/shared.* set runtime\.tracking_uri or MLFLOW_"):
        MlflowTracker(uri=f"sqlite:///{tmp_path}/shared/mlflow.db", runs=tmp_path, console=Console())
    MlflowTracker(uri=f"sqlite:///{tmp_path}/mlflow.db", runs=tmp_path / "shared" / "runs", console=Console())
    MlflowTracker(uri="http://127.0.0.1:9", runs=tmp_path / "shared" / "runs", console=Console())


RACE = """
import sys, time
from cluster.tracking.tracker import connect
import mlflow
time.sleep(max(0, float(sys.argv[2]) - time.time()))
client = connect(sys.argv[1])
try:
    experiment = client.create_experiment("wsss")
except mlflow.exceptions.MlflowException as error:
    assert error.error_code == "RESOURCE_ALREADY_EXISTS", error
    experiment = client.get_experiment_by_name("wsss").experiment_id
print(client.create_run(experiment).info.run_id)
"""


@pytest.mark.slow
@pytest.mark.extended
def test_drivers_that_create_the_same_database_at_once(tmp_path: Path) -> None:
    import time

    uri, start = f"sqlite:///{tmp_path}/mlflow.db", str(time.time() + 12)
    words = [sys.executable, "-c", RACE, uri, start]
    root = Path(__file__).resolve().parents[3]
    drivers = [
        subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [driver.communicate(timeout=300) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], [errors[-1500:] for _, errors in ended]
    assert len({output for output, _ in ended}) == 2
