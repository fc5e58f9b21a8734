"""What a command imports before it has checked its arguments: torch, Ray and MLflow take seconds to import.

The tests compare lists of modules, which are the same on every machine, and put a loose limit on processor time.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

SLOW = frozenset(
    {
        "albumentations",
        "boto3",
        "cv2",
        "deepspeed",
        "matplotlib",
        "mlflow",
        "optuna",
        "pandas",
        "ray",
        "scipy",
        "segmentation_models_pytorch",
        "timm",
        "torch",
        "torchmetrics",
        "torchvision",
        "webdataset",
    }
)
"""Packages that take long to import."""
MAIN = f"""
import sys
from wsss.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
print("imported:", *sorted({set(SLOW)!r} & set(sys.modules)), file=sys.stderr)
sys.exit(status)
"""
SECONDS_OF_CPU = 2.5
"""Seconds more than an empty Python takes. The aim is 1.5 on an idle machine; with torch it is 3."""


def run(*words: str, cwd: Path = ROOT) -> tuple[int, str, list[str]]:
    """Exit status, output, and the slow packages that were imported."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_ROOT")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    said, _, imported = done.stderr.rpartition("imported:")
    return done.returncode, done.stdout + said, imported.split()


FAULTS = {
    "a wrong setting": ("run toy --set make_seeds.foreground_treshold=.4", "did you mean foreground_threshold"),
    "a wrong setting of recipe": ("run toy --set recipe.sed=3", "did you mean seed"),
    "a wrong choice": ("run toy --set make_seeds.rule=best", "make_seeds.rule: unknown value 'best'; there are two"),
    "a value out of range": ("demo --set make_seeds.foreground_threshold=2", "make_seeds.foreground_threshold"),
    "a wrong instance": ("run toy --set make_seedz.rule=exponents", "did you mean make_seeds"),
    "an unset variable": ("run voc_animals", "environment variable VOC_ROOT, which is not set"),
    "a missing recipe": ("run toyy", "the recipe does not exist: toyy; did you mean toy?"),
    "a missing data set": ("run voc_animals --set build_shards.root=/nonexistent", "root = '/nonexistent' is not a"),
    "a wrong place": ("make-cams toy --on nowhere", "--on nowhere: allowed are ray"),
    "a wrong setting of a sweep": ("sweep irnet_thresholds --set build_shards.rot=a", "did you mean root"),
    "a missing sweep": ("sweep irnet", "the sweep does not exist"),
    "a sweep in place of a recipe": ("show irnet_thresholds", "is the name of a sweep: wsss sweep irnet_thresholds"),
    "a recipe in place of a sweep": ("sweep toy", "toy.toml): wsss run toy"),
    "a missing layer": ("shards info /nonexistent", "does not exist; give the folder of a finished layer"),
    "a missing runs folder": ("leaderboard --runs /nonexistent/runs", "there is no folder /nonexistent"),
    "a missing submission": ("check-submission /nonexistent.zip", "there is no file /nonexistent.zip"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_reported_before_anything_slow_is_imported(fault: str) -> None:
    words, message = FAULTS[fault]
    status, said, imported = run(*words.split())
    assert status == 1 and message in said
    assert imported == []


LOOKS = {
    "show toy": "make_pseudo_labels.background_threshold",
    "show toy make_seeds": "make_seeds.rule",
    "show make_seeds": "two_thresholds",
    "show train_segmenter --json": "objective",
    "results toy": "not measured yet",
    "--help": "make-cams",
    "": "make-cams",
    "--version": "wsss ",
    "completion bash": "complete -F",
    "__complete fish run toy --set make_seeds.ru": "make_seeds.rule=",
}


@pytest.mark.parametrize("words", LOOKS)
def test_a_look_imports_nothing_slow(words: str, tmp_path: Path) -> None:
    status, said, imported = run(*words.split(), cwd=tmp_path)
    assert status == 0 and LOOKS[words] in said
    assert imported == []
    assert not list(tmp_path.iterdir()), "a look writes nothing"


def cpu_seconds(*command: str) -> float:
    """User and system time of a child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], capture_output=True, cwd=ROOT, timeout=300)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("words", ["show toy", "run toy --set make_seeds.foreground_treshold=.4"])
def test_the_start_takes_little_of_a_processor(words: str) -> None:
    empty = min(cpu_seconds("-c", "pass") for _ in range(2))
    assert min(cpu_seconds("-m", "wsss", *words.split()) for _ in range(2)) - empty < SECONDS_OF_CPU


STOP = """
import sys
class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise RuntimeError("the import of {name}")
sys.meta_path.insert(0, Stop())
"""
"""Stops when a package would be imported, so that the test can read the output up to then."""


def said_before(package: str, words: str, runs: Path) -> list[str]:
    command = [*words.split(), "--set", f"runtime.runs={runs}"]
    code = STOP.format(name=package) + MAIN
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT, timeout=300)
    lines = done.stderr.splitlines()
    return lines[: lines.index(f"wsss: the import of {package}")]


@pytest.mark.parametrize("words", ["run toy", "demo", "build-shards toy", "sweep irnet_thresholds"])
def test_ray_is_announced_before_it_is_imported(words: str, tmp_path: Path) -> None:
    assert "starting Ray on this machine …" in said_before("ray", words, tmp_path / "runs")


def test_torch_is_announced_before_it_is_imported(tmp_path: Path) -> None:
    assert "loading torch …" in said_before("torch", "build-shards toy --on local", tmp_path / "runs")
