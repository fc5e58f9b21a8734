"""`wsss cluster down` with Ray's own `ray down`; `ssh` is a program that runs commands in a folder per machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.nodes import down as command
from cluster.nodes.down import down

ROOT = Path(__file__).parents[3]
TOKEN = "ab" * 32
FILE = """\
cluster_name: test
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [10.0.0.2, 10.0.0.3]}
auth: {ssh_user: somebody}
"""
SSH = """\
#!/bin/bash
for word in "$@"; do case $word in somebody@*) address=${word#somebody@} ;; esac; done
command=${!#}
echo "$address $command" | head -1 >> HERE/calls
[ -d HERE/$address ] || { echo "connect to host $address port 22: No route to host" >&2; exit 255; }
exec env -i HOME=HERE/$address PATH=HERE/$address/bin:/usr/bin:/bin WSSS_RAY_FOLDER=HERE/$address/session \\
  bash -c "${command/--login -i/}"
"""
RAY = """\
#!/bin/sh
echo "$*" >> HERE/$(basename "$HOME").ray
"""


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller's home, and the homes of three machines after `ray up`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(SSH.replace("HERE", str(tmp_path)))
    (programs / "ssh").chmod(0o755)
    for name in ("caller", "10.0.0.1", "10.0.0.2", "10.0.0.3"):
        home = tmp_path / name
        (home / ".ray" / "tls").mkdir(parents=True)
        (home / ".ray" / "auth_token").write_text(TOKEN)
        (home / "wsss").symlink_to(ROOT)
        (home / ".bashrc").write_text("export A=1\n. ~/wsss/cluster/node_environment.sh\n")
        (home / "session" / "ray").mkdir(parents=True)
        (home / "bin").mkdir()
        (home / "bin" / "ray").write_text(RAY.replace("HERE", str(tmp_path)))
        (home / "bin" / "ray").chmod(0o755)
    for name in ("ray_bootstrap_key.pem", "ray_bootstrap_config.yaml"):
        (tmp_path / "10.0.0.1" / name).write_text("secret")
    (tmp_path / "cluster.yaml").write_text(FILE)
    monkeypatch.setenv("HOME", str(tmp_path / "caller"))
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def without_ray_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's part takes 10 s; one test has it."""
    monkeypatch.setattr(command, "_ray_down", lambda path: None)


def left(home: Path) -> list[str]:
    names = (".ray/auth_token", ".ray/tls", "ray_bootstrap_key.pem", "ray_bootstrap_config.yaml", "session")
    return [name for name in names if (home / name).exists()]


@pytest.mark.slow
def test_all_machines_are_stopped_and_cleaned(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert down(machines / "cluster.yaml", keep_files=False) == 0
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        assert left(machines / address) == []
        assert (machines / address / ".bashrc").read_text() == "export A=1\n"
        assert "stop" in (machines / f"{address}.ray").read_text()
    assert (machines / "caller" / ".ray" / "auth_token").exists(), "the caller's own token stays"
    assert sorted(path.name for path in (machines / "caller" / ".ray").iterdir()) == ["auth_token", "tls"]
    text = capsys.readouterr().out
    assert text.index("10.0.0.1 (head)") < text.index("10.0.0.2")
    assert text.count("stopped Ray") == 3
    assert f"removed {machines}/10.0.0.1/ray_bootstrap_key.pem" in text
    assert f"stays: {machines}/10.0.0.2/wsss" in text and "authorized_keys" in text


@pytest.mark.usefixtures("without_ray_down")
def test_a_machine_that_is_away_is_named_and_the_others_are_ended(
    machines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (machines / "10.0.0.2").rename(machines / "away")
    assert down(machines / "cluster.yaml", keep_files=False) == 1
    text = capsys.readouterr().out
    assert "FAILED: not reached or stopped there (connect to host 10.0.0.2 port 22: No route to host)" in text
    assert "token and session folder stay" in text
    assert left(machines / "10.0.0.3") == left(machines / "10.0.0.1") == []
    assert left(machines / "away") == [".ray/auth_token", ".ray/tls", "session"]


@pytest.mark.usefixtures("without_ray_down")
def test_files_can_be_kept(machines: Path) -> None:
    assert down(machines / "cluster.yaml", keep_files=True) == 0
    assert left(machines / "10.0.0.1") == [
        ".ray/auth_token",
        ".ray/tls",
        "ray_bootstrap_key.pem",
        "ray_bootstrap_config.yaml",
        "session",
    ]
    assert "stop" in (machines / "10.0.0.3.ray").read_text()


@pytest.mark.usefixtures("without_ray_down")
def test_a_token_of_somebody_else_stays(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (machines / "10.0.0.3" / ".ray" / "auth_token").write_text("cd" * 32)
    assert down(machines / "cluster.yaml", keep_files=False) == 0
    assert left(machines / "10.0.0.3") == [".ray/auth_token"]
    assert "kept ~/.ray/auth_token: it is another one" in capsys.readouterr().out


@pytest.mark.usefixtures("without_ray_down")
def test_the_callers_own_machine_or_a_shared_home_keeps_its_token(
    machines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head is this machine: its ~/.ray is the caller's."""
    head = machines / "10.0.0.1" / ".ray"
    head.rename(machines / "removed")
    head.symlink_to(machines / "caller" / ".ray")
    assert down(machines / "cluster.yaml", keep_files=False) == 0
    assert (machines / "caller" / ".ray" / "auth_token").read_text() == TOKEN
    assert "kept ~/.ray: it is the folder of the machine that this command was called on" in capsys.readouterr().out


@pytest.mark.usefixtures("without_ray_down")
def test_a_failing_ray_stop_is_an_error(machines: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (machines / "10.0.0.2" / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
    assert down(machines / "cluster.yaml", keep_files=False) == 1
    assert "FAILED: ray stop" in capsys.readouterr().out


def test_a_file_that_is_not_filled_in_is_refused_before_a_machine_is_asked(
    machines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_ray_down", lambda path: pytest.fail("ray down was called"))
    with pytest.raises(ValueError, match=r"provider\.head_ip: HEAD_ADDRESS is a placeholder"):
        down(ROOT / "cluster" / "onprem.yaml", keep_files=False)
    path = machines / "cluster.yaml"
    for text in (FILE.replace("auth: {ssh_user: somebody}\n", ""), FILE.replace("{ssh_user: somebody}", "")):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"auth\.ssh_user is missing; name the user|auth: Ray does not accept it"):
            down(path, keep_files=False)
    assert not (machines / "calls").exists(), "no ssh"


def test_machines_of_a_cloud_are_not_ended_here(tmp_path: Path) -> None:
    cloud = tmp_path / "cloud.yaml"
    cloud.write_text("cluster_name: test\nprovider: {type: aws, region: us-west-2}\n")
    with pytest.raises(ValueError, match="is for own machines") as raised:
        down(cloud, keep_files=False)
    assert f"`ray down {cloud}` ends the machines of a cloud" in str(raised.value)
    path = tmp_path / "containers.yaml"
    path.write_text(FILE + "docker: {image: x:1, container_name: wsss}\n")
    with pytest.raises(ValueError, match="stops the containers on all machines"):
        down(path, keep_files=False)
