"""Runs the golden cases with the package in a given folder, in a process of its own, and reads what they left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.golden.results import Result, result_of

HERE = Path(__file__).resolve().parent
CASES = HERE / "cases.toml"
_ENDING_SHOWN = 3000


@dataclass(frozen=True)
class Case:
    """One case as a package ran it."""

    kind: str
    revisions: Mapping[str, int]
    """Kind -> revision, of the case's stage and of all that it reads."""
    settings: Mapping[str, Any]
    """Every setting, given or default."""
    unread: frozenset[str]
    """Settings that the others leave unread."""
    failure: str
    """The traceback, where it failed."""
    result: Result | None


@dataclass(frozen=True)
class Run:
    """All cases as one package ran them."""

    versions: Mapping[str, str]
    """What bytes depend on besides the package: CPU and libraries."""
    choices: Mapping[str, Mapping[str, list[Any]]]
    """Kind -> setting -> its choices."""
    cases: Mapping[str, Case]


def given_settings() -> dict[str, dict[str, Any]]:
    """Case -> its table in cases.toml."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(CASES.read_text())["stages"]
    return tables


def run_package(
    package: Path, folder: Path, *, names: Iterable[str] = (), renamed: Mapping[str, str] | None = None
) -> Run:
    """Run the named cases and what they read, or all, with the package in `package`; files go into `folder`.

    `renamed`: name in cases.toml -> the name that an older package has for it.
    """
    recipe, report = folder / "cases.toml", folder / "report.json"
    folder.mkdir(parents=True, exist_ok=True)
    recipe.write_text(_with_names(CASES.read_text(), renamed or {}))
    _python([str(HERE / "drawn_data.py"), str(folder / "data")], folder, {})
    variables = {"PYTHONPATH": str(package.resolve()), "GOLDEN_DATA": str(folder / "data"), "CUDA_VISIBLE_DEVICES": ""}
    _python([str(HERE / "runner.py"), str(recipe), str(folder / "runs"), str(report), *names], folder, variables)
    content = json.loads(report.read_text())
    if Path(content["package"]).resolve() != package.resolve():
        raise RuntimeError(f"python imported the package of {content['package']}, not that of {package}")
    return Run(
        content["versions"], content["choices"], {name: _case(facts) for name, facts in content["cases"].items()}
    )


def _case(facts: Mapping[str, Any]) -> Case:
    failure = facts["failed"]
    return Case(
        kind=facts["kind"],
        revisions=facts["revisions"],
        settings=facts["settings"],
        unread=frozenset(facts["unread"]),
        failure=failure,
        result=None if failure else result_of(Path(facts["path"]), facts["tars"]),
    )


def _with_names(text: str, renamed: Mapping[str, str]) -> str:
    for new, old in renamed.items():
        text = re.sub(rf"(?m)(^|[{{,] *){re.escape(new)}( = )", rf"\g<1>{old}\g<2>", text)
    return text


def _python(arguments: list[str], folder: Path, variables: Mapping[str, str]) -> None:
    output = folder / "output.txt"
    with output.open("wb") as file:
        command = [sys.executable, *arguments]
        ended = subprocess.run(command, cwd=folder, env={**os.environ, **variables}, stdout=file, stderr=file)
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(arguments)} ended with {ended.returncode}:\n{output.read_text()[-_ENDING_SHOWN:]}"
        )
