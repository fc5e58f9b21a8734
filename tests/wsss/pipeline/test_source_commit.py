from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wsss.pipeline.source_commit import VARIABLE, check_commit, source_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def package(folder: Path) -> Path:
    made = folder / "wsss"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text("")
    return made


def installed(site: Path, origin: dict[str, object] | None) -> Path:
    """A package with what an installer leaves beside it."""
    notes = site / "wsss-0.1.0.dist-info"
    notes.mkdir(parents=True)
    (notes / "METADATA").write_text("Metadata-Version: 2.4\nName: wsss\nVersion: 0.1.0\n")
    if origin is not None:
        (notes / "direct_url.json").write_text(json.dumps(origin))
    return package(site)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose only commit holds the package, and which ignores `.venv`."""
    git(tmp_path, "init", "--quiet")
    package(tmp_path)
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_a_copy_without_git_takes_the_commit_from_the_environment(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path_factory.mktemp("job") / "wsss"
    shutil.copytree(repository / "wsss", copy)
    monkeypatch.setenv(VARIABLE, f"{COMMIT}-dirty")
    assert source_commit(copy) == f"{COMMIT}-dirty"
    assert source_commit(installed(copy.parent / "site", {"url": "file:///x"})) == f"{COMMIT}-dirty"
    assert source_commit(repository / "wsss") == git(repository, "rev-parse", "HEAD"), "git itself knows better"
    monkeypatch.setenv(VARIABLE, "main")
    with pytest.raises(ValueError, match=r"WSSS_GIT_COMMIT is 'main'; allowed: the 7 to 40 hexadecimal digits"):
        source_commit(copy)


def test_a_given_commit_that_is_not_the_checkouts_is_refused(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, commit = repository / "wsss", git(repository, "rev-parse", "HEAD")
    for given in ("", commit, commit[:7]):
        monkeypatch.setenv(VARIABLE, given)
        check_commit(code)
    for given in (COMMIT, f"{commit}-dirty"):
        monkeypatch.setenv(VARIABLE, given)
        with pytest.raises(ValueError, match=rf"WSSS_GIT_COMMIT is '{given}', but the code .* checkout at '{commit}'"):
            check_commit(code)
    copy = tmp_path_factory.mktemp("job") / "wsss"
    shutil.copytree(code, copy)
    check_commit(copy)
    monkeypatch.setenv(VARIABLE, "main")
    with pytest.raises(ValueError, match="WSSS_GIT_COMMIT is 'main'; allowed"):
        check_commit(code)


def test_a_checkout_gives_its_commit(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert source_commit(repository / "wsss") == commit
    (repository / "wsss" / "__init__.py").write_text("changed = True\n")
    assert source_commit(repository / "wsss") == f"{commit}-dirty"


def test_an_environment_inside_another_repository_does_not_give_that_ones_commit(repository: Path) -> None:
    site = repository / ".venv" / "site-packages"
    assert source_commit(installed(site, None)) == "version 0.1.0"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "https://example.com/a.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, COMMIT),
        ({"url": "file:///wsss-0.1.0-py3-none-any.whl", "archive_info": {}}, "version 0.1.0"),
    ],
)
def test_an_installed_package_gives_what_the_installer_noted(
    tmp_path: Path, origin: dict[str, object], expected: str
) -> None:
    assert source_commit(installed(tmp_path, origin)) == expected


def test_a_bare_copy_is_unknown(tmp_path: Path) -> None:
    assert source_commit(package(tmp_path)) == "unknown"


def test_without_git_a_checkout_is_unknown(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shutil.which("git"), "the tests need git"
    monkeypatch.setenv("PATH", "")
    assert source_commit(repository / "wsss") == "unknown"


def test_this_checkout() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|version .*|unknown", source_commit())
