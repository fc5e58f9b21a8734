from __future__ import annotations

from pathlib import Path

import pytest
import ray

import cluster
from cluster.session.ray_session import connect
from cluster.session.shadowing import PACKAGES, check_working_folder


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("file", ["{}.py", "{}/__init__.py"])
def test_another_module_of_our_name_is_refused(tmp_path: Path, name: str, file: str) -> None:
    other = tmp_path / file.format(name)
    other.parent.mkdir(exist_ok=True)
    other.write_text("")
    with pytest.raises(ValueError, match=rf"{other} would be imported by Ray's workers in place of .*{name}"):
        check_working_folder(tmp_path)


def test_data_folders_and_our_own_checkout_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train-000000.tar").write_bytes(b"")
    check_working_folder(tmp_path)
    assert cluster.__file__ is not None
    checkout = Path(cluster.__file__).parents[1]
    check_working_folder(checkout)
    (tmp_path / "link").symlink_to(checkout)
    check_working_folder(tmp_path / "link")


def test_ray_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", lambda **options: pytest.fail("Ray was started"))
    with pytest.raises(ValueError, match=r"cluster\.py would be imported by Ray's workers"):
        connect(None)
