"""The built wheel: what is in it, and that it works where there is no checkout.

The wheel is built by setuptools as any build front end would, from a copy of the files that git knows, and installed by
pip into a new environment. Nothing is downloaded: the other packages are those of the environment that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.extended]
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"shards", "wsss", "cluster", "tuning"}
DATA = [
    "shards/ilsvrc_det.tsv",
    "wsss/plan/costs.toml",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tuning").rglob("*.toml"))),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tuning").rglob("*.txt"))),
    *(
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "cluster").rglob("*"))
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ),
    *(f"{name}/README.md" for name in sorted(PACKAGES - {"cluster"}) if (ROOT / name / "README.md").is_file()),
]
"""Files that are not Python: an installed package does not work without them, or refers to pages it does not have."""


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command that sees nothing of the checkout: no PYTHONPATH, another working folder."""
    hidden = {"PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)


def succeed(*command: str | Path, folder: Path) -> str:
    done = run(*command, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that are in git or could be added to it: no environment, no runs, nothing built before."""
    target = tmp_path_factory.mktemp("source")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in succeed(*command, folder=ROOT).splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


def build(source: Path, target: Path, *, kind: str) -> Path:
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    return target / succeed(sys.executable, "-c", code, target, folder=source).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"), kind="wheel")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel in it."""

    bin: Path
    site: Path

    def wsss(self, *arguments: str | Path, folder: Path) -> str:
        return succeed(self.bin / "wsss", *arguments, folder=folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", place, folder=place)
    pip = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    succeed(*pip, "--no-index", "--no-deps", wheel, folder=place)
    (site,) = place.glob("lib/python*/site-packages")
    # Python reads no .pth files of a folder that a .pth file names: an editable install there stays out of sight.
    (site / "other_packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Installed(place / "bin", site)


def test_members_of_the_wheel(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith("wsss-")]
    modules = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sorted(names) == sorted([*modules, *DATA])
    assert {name.split("/")[0] for name in names} == PACKAGES, "nothing else may lie open in site-packages"


def test_no_other_installed_package_has_our_names() -> None:
    owners = packages_distributions()
    taken = {name: set(owners.get(name, [])) - {"wsss"} for name in PACKAGES}
    assert not any(taken.values()), f"two distributions would write into one folder: {taken}"


def test_a_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    archive = build(source, tmp_path, kind="sdist")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    unpacked = archive.with_name(archive.name.removesuffix(".tar.gz"))
    assert not (unpacked / "tests").exists()
    assert {path.name for path in unpacked.glob("*.*")} >= {"constraints.txt", "ray_cluster.yaml", "pyproject.toml"}
    again = build(unpacked, tmp_path, kind="wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_commands_that_compute_nothing(installed: Installed, tmp_path: Path) -> None:
    recipes = installed.site / "tuning" / "recipes"
    assert "demo" in installed.wsss("--help", folder=tmp_path)
    shown = installed.wsss("show", recipes / "toy.toml", folder=tmp_path)
    assert "make_pseudo_labels.background_threshold" in shown
    # The plan reads the table of costs and the classes of ILSVRC DET.
    assert "train_segmenter" in installed.wsss("plan", recipes / "npa.toml", "--gpu", "A100", folder=tmp_path)
    assert list(tmp_path.iterdir()) == [], "looking at a recipe writes nothing"


def test_files_that_the_code_looks_for_beside_itself(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import wsss; from wsss.pipeline.recipe_files import RECIPES; from wsss.stages.data_sets.shared import LISTS;"
        "from wsss.pipeline.source_commit import source_commit;"
        "print(wsss.__file__, RECIPES / 'toy.toml', LISTS / 'voc_animals_train.txt', source_commit(), sep='\\n')"
    )
    module, recipe, listed, commit = succeed(installed.bin / "python", "-c", code, folder=tmp_path).splitlines()
    assert Path(module).is_relative_to(installed.site), "the test must not see the checkout"
    assert Path(recipe).is_file() and Path(listed).is_file()
    assert commit.startswith("version ")


@pytest.mark.ray
def test_a_chain_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    """Ray's actors and ranks import the installed package, also where the working folder has one of its names."""
    shutil.copy(ROOT / "tests" / "recipes" / "tiny.toml", tmp_path)
    (tmp_path / "shards").mkdir()
    (tmp_path / "cluster.py").write_text("raise ImportError('the module of the user, not of the package')\n")
    refused = run(installed.bin / "wsss", "run", "tiny.toml", folder=tmp_path)
    assert refused.returncode == 1 and "cluster.py would be imported by Ray's workers" in refused.stderr
    (tmp_path / "cluster.py").unlink()
    shown = installed.wsss("run", "tiny.toml", "--to", "make_seeds", folder=tmp_path)
    assert "train_classifier" in shown
    assert {path.name.rpartition("-")[0] for path in (tmp_path / "runs" / "store").iterdir()} >= {
        "build_shards",
        "train_classifier",
        "make_cams",
        "make_seeds",
    }
