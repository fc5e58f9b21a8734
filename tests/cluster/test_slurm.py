"""cluster/slurm/wsss.sbatch with a `srun` that runs its command on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NOT_RUN

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "wsss.sbatch"
PROGRAMS = {
    # Options, then the command; every step notes its options.
    "srun": """\
#!/bin/bash
given=()
while [[ $1 == --* ]]; do given+=("$1"); shift; done
echo "srun ${given[*]} :: $(echo "$*" | tr '\\n' ' ')" >> HERE/calls
exec "$@"
""",
    "scontrol": """\
#!/bin/bash
echo "scontrol $*" >> HERE/calls
[ "$1 $2" = "show hostnames" ] && printf '%s\\n' NODES
[ "$1 $2" = "show job" ] && echo "JobId=7 JobState=STATE Reason=None"
exit 0
""",
}
STUBS = {
    "ray": """\
#!/bin/bash
echo "ray $*" >> HERE/calls
case "$*" in
  *--head*) exec python3 -c 'import socket, time
server = socket.create_server(("0.0.0.0", PORT))
time.sleep(60)' ;;
  *--address*) exec sleep 60 ;;
esac
""",
    "wsss": """\
#!/bin/bash
echo "wsss $*" >> HERE/calls
case "$1 $2" in
  "show mistyped") echo "wsss: there is no recipe mistyped" >&2; exit 2 ;;
  "show toy")
    SHOW
    [ "$3" = nowhere ] && { echo "wsss: there is no instance nowhere" >&2; exit 2; }
    printf 'setting,value,from,note\nruntime.runs,/x y,--set,-\n' ;;
  "cluster check") CHECK ;;
esac
[ "$1" = run ] || exit 0
DRIVER
""",
}


class Job:
    """The script as Slurm would start it, with programs of its own in the PATH."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: str,
        driver: str,
        show: str = "",
        check: str = "",
        state: str = "RUNNING",
        words: tuple[str, ...] = ("toy", "--set", "runtime.runs=/x y"),
    ) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        programs = folder / "bin"
        programs.mkdir()
        for name, text in {**PROGRAMS, **STUBS}.items():
            text = text.replace("HERE", str(folder)).replace("PORT", str(port))
            text = text.replace("NODES", nodes).replace("DRIVER", driver).replace("SHOW", show)
            text = text.replace("STATE", state)
            (programs / name).write_text(text.replace("CHECK", check).replace("HERE", str(folder)))
            (programs / name).chmod(0o755)
        self.environment = slurm_environment(folder, port=port) | {"PATH": f"{programs}:/usr/bin:/bin"}
        self.process = subprocess.Popen(
            ["bash", str(SCRIPT), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for(self, call: str) -> None:
        end = time.monotonic() + 30
        while not any(line.startswith(call) for line in self.calls()):
            assert time.monotonic() < end and self.process.poll() is None, self.calls()
            time.sleep(0.1)

    def ends_with(self) -> int:
        self.output, _ = self.process.communicate(timeout=60)
        return self.process.returncode


def slurm_environment(folder: Path, *, port: int) -> dict[str, str]:
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("ab" * 32)
    (folder / ".ray" / "auth_token").chmod(0o600)
    return {
        "HOME": str(folder),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "WSSS_PORT": str(port),
        "WSSS_RAY_FOLDER": str(folder / "session"),
        "WSSS_PROJECT": str(project_without_environment(folder)),
    }


def project_without_environment(folder: Path) -> Path:
    """The folder of the project without its .venv, whose programs would come first."""
    project = folder / "project"
    project.mkdir()
    for path in ROOT.iterdir():
        if path.name != ".venv":
            (project / path.name).symlink_to(path)
    return project


def test_the_order_of_the_steps(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1 node2 node3", driver="sleep 1; exit 0")
    assert job.ends_with() == 0, job.output
    calls = job.calls()
    heads = [line for line in calls if line.startswith("srun") and "--head " in line]
    workers = [line for line in calls if line.startswith("srun") and "--address=" in line]
    assert len(heads) == len(workers) == 1
    bound = "--overlap --cpus-per-task=2 --cpu-bind=none"
    assert f"{bound} --nodes=1 --ntasks=1 --nodelist=node1 ::" in heads[0] and bound in workers[0]
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=node1 --kill-on-bad-exit=0 ::" in workers[0]
    (run,) = [line for line in calls if line.startswith("wsss run")]
    assert run.startswith("wsss run toy --set runtime.runs=/x y --set runtime.stop_seconds=240 --on ")
    assert calls.index(heads[0]) < calls.index(run)
    (started,) = [line for line in calls if line.startswith("ray start") and "--head" in line]
    assert (
        run.rpartition(" ")[2]
        == f"{started.partition('--node-ip-address=')[2].split()[0]}:{job.environment['WSSS_PORT']}"
    )
    for port in ("--object-manager-port=8076", "--node-manager-port=8077", "--min-worker-port=10100", "--num-cpus=2"):
        assert port in started
    assert calls.count("wsss cluster check --here --runs /x y") == 2, "on the head and on the others"
    assert not any("requeue" in line for line in calls)
    assert not (tmp_path / "session").exists(), "the session folder is removed"


def test_one_node_needs_no_worker_step(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1", driver="exit 0")
    assert job.ends_with() == 0
    assert not [line for line in job.calls() if "--address=" in line]


def test_slurms_signal_stops_the_run_and_queues_the_job_again(tmp_path: Path) -> None:
    driver = "trap 'sleep 1; echo saved >> HERE/calls; exit 143' TERM; sleep 60 > /dev/null 2>&1 & wait".replace(
        "HERE", str(tmp_path)
    )
    job = Job(tmp_path, nodes="node1 node2", driver=driver)
    job.wait_for("wsss run")
    time.sleep(0.5)
    job.process.send_signal(signal.SIGTERM)
    assert job.ends_with() == 143
    calls = job.calls()
    assert calls[-3:] == ["saved", "scontrol show job -o 7", "scontrol requeue 7"], "after the driver has stopped"
    assert "stopped by Slurm; the job is queued again" in job.output


def test_a_job_that_was_cancelled_is_not_queued_again(tmp_path: Path) -> None:
    """`scancel JOB` sends the script the signal of a time limit."""
    job = Job(
        tmp_path,
        nodes="node1",
        driver="trap 'exit 143' TERM; sleep 60 > /dev/null 2>&1 & wait",
        state="CANCELLED",
        words=("toy", "--set", "runtime.runs=/x y", "--set", "runtime.stop_seconds=9"),
    )
    job.wait_for("wsss run")
    time.sleep(0.5)
    job.process.send_signal(signal.SIGTERM)
    assert job.ends_with() == 143
    assert not any("requeue" in line for line in job.calls()) and "cancelled; the same command resumes" in job.output
    (run,) = [line for line in job.calls() if line.startswith("wsss run")]
    assert run.count("stop_seconds") == 1 and "stop_seconds=9" in run, "what the user gives stays"


def test_a_run_that_finishes_on_the_signal_is_not_queued_again(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1", driver="trap 'exit 0' TERM; sleep 60 > /dev/null 2>&1 & wait")
    job.wait_for("wsss run")
    time.sleep(0.5)
    job.process.send_signal(signal.SIGTERM)
    assert job.ends_with() == 0
    assert not any("requeue" in line for line in job.calls())


def test_a_run_that_fails_ends_the_job_with_its_status(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1 node2", driver="exit 1")
    assert job.ends_with() == 1
    assert not any("requeue" in line for line in job.calls())


@pytest.mark.parametrize("when", ["while the recipe is read", "while Ray starts"])
def test_a_signal_before_the_driver_queues_the_job_again(when: str, tmp_path: Path) -> None:
    """The head never answers in the second case: its check takes seconds."""
    show, check = ("sleep 1", "") if when == "while the recipe is read" else ("", "sleep 3")
    job = Job(tmp_path, nodes="node1 node2", driver="exit 0", show=show, check=check)
    job.wait_for("wsss show" if show else "wsss cluster check")
    job.process.send_signal(signal.SIGTERM)
    assert job.ends_with() == 143
    calls = job.calls()
    assert calls[-1] == "scontrol requeue 7" and not any(line.startswith("wsss run") for line in calls)
    assert any("--head" in line for line in calls) == (when == "while Ray starts")
    assert "stopped by Slurm; the job is queued again" in job.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mistyped",), "there is no recipe mistyped"),
        (("--set", "a=b", "toy", "--from=build_shards", "--to", "nowhere"), "there is no instance nowhere"),
        (("toy", "--on", "local"), "leave out --on"),
        (("--set", "a=b"), "name a recipe: sbatch cluster/slurm/wsss.sbatch RECIPE"),
        (("--set",), "name a recipe"),
    ],
)
def test_what_wsss_run_would_refuse_is_refused_before_ray_starts(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    job = Job(tmp_path, nodes="node1", driver="exit 0", words=words)
    assert job.ends_with() == 2 and message in job.output, job.output
    assert not [line for line in job.calls() if line.startswith(("srun", "ray", "wsss run"))]


def test_a_node_that_fails_its_check_is_named(tmp_path: Path) -> None:
    """The head's check passes; that of the other node does not."""
    check = "[ -e HERE/checked ] && { echo 'refused: no folder'; exit 1; }; touch HERE/checked"
    job = Job(tmp_path, nodes="node1 node2", driver="sleep 1; exit 0", check=check)
    assert job.ends_with() == 0, job.output
    assert f"{socket.gethostname()} is left out, because of the faults above" in job.output
    assert "refused: no folder" in job.output and sum(line.startswith("ray start") for line in job.calls()) == 1


def test_a_head_that_fails_its_check_ends_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1 node2", driver="exit 0", check="exit 1")
    assert job.ends_with() == 1
    assert "is left out, because of the faults above" in job.output
    assert "Ray did not start on node1, the head; nothing was run" in job.output


def test_outside_slurm_or_the_project_nothing_is_started(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    words = ["bash", str(SCRIPT), "toy"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("wsss: this is a batch script of Slurm; start it with sbatch cluster/slurm/")
    environment |= {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path), "WSSS_RAY_FOLDER": str(tmp_path / "r")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{tmp_path} is not the folder of the project; call sbatch there" in done.stderr


def test_without_a_recipe_nothing_is_started(tmp_path: Path) -> None:
    job = Job(tmp_path, nodes="node1", driver="exit 0", words=())
    assert job.ends_with() == 2 and "name a recipe" in job.output and job.calls() == []


def test_slurm_reads_the_options_before_the_first_command() -> None:
    lines = SCRIPT.read_text().splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert options[-1] < first
    given = {lines[number].split()[1] for number in options}
    assert {"--requeue", "--signal=B:TERM@300", "--exclusive", "--open-mode=append"} <= given


@pytest.mark.extended
@pytest.mark.slow
def test_a_whole_run_with_ray(tmp_path: Path) -> None:
    """One node, in namespaces of its own, since the script's Ray uses fixed ports."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip(f"{NOT_RUN}needs root, unshare and ip for namespaces")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(text.replace("HERE", str(tmp_path)).replace("NODES", "node1"))
        (programs / name).chmod(0o755)
    (programs / "wsss").write_text(f'#!/bin/sh\nexec {sys.executable} -m wsss "$@"\n')
    (programs / "wsss").chmod(0o755)
    (programs / "python").symlink_to(sys.executable)
    environment = slurm_environment(tmp_path, port=6379) | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT),
        "WSSS_RAY_FOLDER": f"/tmp/slurm-{os.getpid()}",
    }
    inside = (
        "ip link set lo up; ip link add eth0 type veth peer name eth1; ip address add 10.79.0.1/24 dev eth0; "
        "ip link set eth0 up; ip link set eth1 up; "
        f'ip route add default via 10.79.0.2; exec bash {SCRIPT} "$@"'
    )
    recipe = [str(ROOT / "tests" / "recipes" / "tiny.toml"), "--to", "build_shards"]
    words = ["unshare", "--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-c", inside, "_"]
    done = subprocess.run(
        [*words, *recipe, "--set", f"runtime.runs={tmp_path}/runs"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list((tmp_path / "runs" / "store").glob("build_shards-*/run.json"))
