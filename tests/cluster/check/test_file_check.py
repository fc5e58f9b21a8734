"""`wsss cluster check FILE`: the shipped files once their placeholders are filled in, and one fault after the other."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.check.command import check
from cluster.check.file_check import check_file
from cluster.check.findings import Finding

ROOT = Path(__file__).parents[3]
AWS, ONPREM = ROOT / "ray_cluster.yaml", ROOT / "cluster" / "onprem.yaml"
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a token and a key, as the README makes them; the caller is in the project's folder."""
    folder = tmp_path / "home"
    for part in (".ray", ".ssh"):
        (folder / part).mkdir(parents=True, mode=0o700)
    for path, text in ((folder / ".ray/auth_token", "ab" * 32), (folder / ".ssh/wsss_cluster", "key")):
        path.write_text(text)
        path.chmod(0o600)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(ROOT)
    return folder


def aws(tmp_path: Path, edit: Edit = lambda config: None) -> Path:
    text = AWS.read_text().replace("sg-00000000000000000", "sg-1a").replace("fs-00000000000000000", "fs-1a")
    return written(tmp_path, text, edit)


def onprem(tmp_path: Path, edit: Edit = lambda config: None) -> Path:
    """With addresses of which none is asked: `answering` does that."""
    text = ONPREM.read_text().replace("USER\n", "somebody\n")
    text = text.replace("HEAD_ADDRESS", "10.0.0.1").replace("WORKER_ADDRESS", "10.0.0.2, 10.0.0.3")
    return written(tmp_path, text, edit)


def written(tmp_path: Path, text: str, edit: Edit) -> Path:
    config = yaml.safe_load(text)
    edit(config)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every address answers at its SSH port."""
    asked: list[tuple[str, int]] = []

    def connection(address: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(address)
        ours, theirs = socket.socketpair()
        theirs.sendall(b"SSH-2.0-test\r\n")
        theirs.close()
        return ours

    monkeypatch.setattr(socket, "create_connection", connection)
    return asked


def refused(findings: list[Finding]) -> list[str]:
    return [f"{finding.where} {finding.text}" for finding in findings if finding.refused]


def test_the_files_are_in_order_once_the_placeholders_are_filled_in(
    tmp_path: Path, answering: list[tuple[str, int]]
) -> None:
    assert check_file(aws(tmp_path)) == []
    assert check_file(onprem(tmp_path)) == []
    assert sorted(answering) == [("10.0.0.1", 22), ("10.0.0.2", 22), ("10.0.0.3", 22)]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (AWS, ["sg-00000000000000000", "fs-00000000000000000"]),
        (ONPREM, ["HEAD_ADDRESS", "WORKER_ADDRESS", "USER"]),
    ],
    ids=["aws", "onprem"],
)
def test_placeholders_are_refused_with_their_lines(path: Path, names: list[str]) -> None:
    lines = path.read_text().splitlines()
    found = [finding for finding in check_file(path) if "is a placeholder" in finding.text]
    assert [finding.text.partition(" ")[0] for finding in found] == names
    for finding, name in zip(found, names, strict=True):
        number = int(finding.where.removeprefix("line ").partition(":")[0])
        assert name in lines[number - 1]


def head(config: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = config["available_node_types"]["head"]["node_config"]
    return node


def worker(config: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = config["available_node_types"]["gpu_worker"]["node_config"]
    return node


def replaced(name: str, before: str, after: str) -> Edit:
    def edit(config: dict[str, Any]) -> None:
        commands = config[name]
        assert any(before in command for command in commands)
        config[name] = [command.replace(before, after) for command in commands]

    return edit


AWS_FAULTS: dict[str, tuple[Edit, str]] = {
    "no image for all": (
        lambda c: c["docker"].update(
            head_image=c["docker"].pop("image"), worker_image="rayproject/ray:2.60.0-py311-gpu"
        ),
        "docker.image is missing. Ray's autoscaler needs it for every worker",
    ),
    "other Ray in the image": (
        lambda c: c["docker"].update(image="rayproject/ray:2.59.0-py311-cpu"),
        "holds Ray 2.59.0, constraints.txt 2.60.0",
    ),
    "other Ray in one type's image": (
        lambda c: c["available_node_types"]["cpu_worker"].update(docker={"worker_image": "rayproject/ray:2.9.0-py311"}),
        "available_node_types.cpu_worker.docker.worker_image rayproject/ray:2.9.0-py311 holds Ray 2.9.0",
    ),
    "other Python in the image": (
        lambda c: c["docker"].update(image="rayproject/ray:2.60.0-py310-gpu"),
        "holds Python 3.10; allowed are 3.11 and 3.12",
    ),
    "own image without a tag": (lambda c: c["docker"].update(image="lab/wsss"), "lab/wsss has no version"),
    "other Ray in the setup": (
        replaced("setup_commands", "==2.60.0", "==2.59.1"),
        "setup_commands[2] installs Ray 2.59.1, constraints.txt has 2.60.0",
    ),
    "no machine image": (lambda c: head(c).pop("ImageId"), "head.node_config.ImageId is missing: Ray would take"),
    "odd machine image": (lambda c: head(c).update(ImageId="ubuntu"), "'ubuntu' is no image"),
    "head without a role": (lambda c: head(c).pop("IamInstanceProfile"), "full access to EC2 and S3"),
    "worker without a role": (lambda c: worker(c).pop("IamInstanceProfile"), "cannot read s3://"),
    "IMDSv2 optional": (lambda c: worker(c).pop("MetadataOptions"), "HttpTokens is not required"),
    "SSH open to everybody": (
        lambda c: worker(c).pop("SecurityGroupIds"),
        "gpu_worker.node_config.SecurityGroupIds is missing: Ray would make a group that opens port 22",
    ),
    "a rule for everybody": (
        lambda c: c["provider"].update(
            security_group={
                "IpPermissions": [{"FromPort": 8265, "ToPort": 8265, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
            }
        ),
        "ports 8265 to 8265 are open to everybody",
    ),
    "file system in another region": (
        lambda c: c["provider"].update(region="eu-central-1"),
        "the file system is in us-west-2, the nodes in eu-central-1",
    ),
    "small disk": (
        lambda c: head(c).update(BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 30}}]),
        "VolumeSize is below 60 GB",
    ),
    "a size in quotes": (
        lambda c: head(c).update(BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": "200"}}]),
        "head.node_config.BlockDeviceMappings is not a list of devices",
    ),
    "one device without a list": (
        lambda c: worker(c).update(BlockDeviceMappings={"DeviceName": "/dev/sda1"}),
        "gpu_worker.node_config.BlockDeviceMappings is not a list of devices",
    ),
    "a role as text": (
        lambda c: worker(c).update(IamInstanceProfile="wsss-worker"),
        "gpu_worker.node_config.IamInstanceProfile is not a table with Name or Arn",
    ),
    "a group without a list": (
        lambda c: worker(c).update(SecurityGroupIds="sg-1a"),
        "gpu_worker.node_config.SecurityGroupIds is not a list of ids",
    ),
    "the metadata service as text": (
        lambda c: worker(c).update(MetadataOptions="required"),
        "gpu_worker.node_config.MetadataOptions is not a table",
    ),
    "runs inside the container": (
        lambda c: c["docker"].update(run_options=["--ulimit nofile=65536:65536"]),
        "which the container does not share with its machine",
    ),
    "few open files in the container": (
        lambda c: c["docker"].update(run_options=["-v /mnt/shared:/mnt/shared"]),
        "add --ulimit nofile=65536:65536",
    ),
    "token as a single file": (
        lambda c: c.update(file_mounts={"~/.ray/auth_token": "~/.ray/auth_token", "~/wsss": "."}),
        "is a single file: a container keeps the version that it was started with",
    ),
    "a single file": (
        lambda c: c["file_mounts"].update({"~/recipe.toml": "pyproject.toml"}),
        "file_mounts.~/recipe.toml pyproject.toml is a single file",
    ),
    "no token": (lambda c: c["file_mounts"].pop("~/.ray"), "the token is not copied to the nodes"),
    "token in another folder": (
        lambda c: c["file_mounts"].update({"~/.ray": "~/.rays"}),
        "there is no token ~/.rays/auth_token, but ~/.ray/auth_token: write ~/.ray: ~/.ray",
    ),
    "unknown provider": (lambda c: c["provider"].update(type="awss"), "'awss' is no provider; allowed are aws,"),
    "missing folder": (lambda c: c["file_mounts"].update({"~/x": "./nothing"}), "there is no ./nothing in "),
    "token not asked for": (
        replaced("worker_start_ray_commands", ". ~/wsss/cluster/node_environment.sh;", ""),
        "a node without a token runs code for everybody",
    ),
    "open dashboard": (
        replaced("head_start_ray_commands", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        "--dashboard-host=0.0.0.0: the dashboard runs code",
    ),
    "random ports": (
        replaced("worker_start_ray_commands", "--node-manager-port=8077", ""),
        "these ports are random, so that no firewall can admit them: --node-manager-port;",
    ),
    "few open files": (replaced("head_start_ray_commands", "ulimit -n 65536", "true"), "put `ulimit -n 65536;`"),
    "no autoscaler": (
        replaced("head_start_ray_commands", "--autoscaling-config=~/ray_bootstrap_config.yaml", ""),
        "no worker is started without --autoscaling-config",
    ),
    "unpinned installation": (
        replaced("setup_commands", "--constraint ~/wsss/constraints.txt", ""),
        "installs the package without --constraint",
    ),
    "no such head type": (lambda c: c.update(head_node_type="boss"), "there is no node type 'boss'; allowed are head,"),
    "more workers than allowed": (
        lambda c: c["available_node_types"]["cpu_worker"].update(min_workers=11, max_workers=11),
        "max_workers = 10, but min_workers of the node types add up to 11",
    ),
    "no workers": (lambda c: c.update(max_workers=0), "max_workers no worker may start: max_workers is 0"),
    "no workers of any type": (
        lambda c: [c["available_node_types"][name].update(max_workers=0) for name in ("cpu_worker", "gpu_worker")],
        "no worker may start",
    ),
    "everything is copied": (
        lambda c: c.pop("rsync_exclude"),
        "rsync_exclude does not name .git, .venv, runs: they would be copied to every node",
    ),
    "the runs are copied": (
        lambda c: c.update(rsync_exclude=[".git/", "**/.venv"]),
        "rsync_exclude does not name runs: it would be copied to every node",
    ),
    "the project is not copied": (lambda c: c["file_mounts"].pop("~/wsss"), "add ~/wsss: ."),
    "no setup": (
        lambda c: [c.pop(name) for name in ("setup_commands", "head_setup_commands")],
        "setup_commands is missing: nothing installs the package",
    ),
    "a port of zero": (
        replaced("worker_start_ray_commands", "--node-manager-port=8077", "--node-manager-port=0"),
        "these ports are random, so that no firewall can admit them: --node-manager-port;",
    ),
    "a port twice": (
        replaced("head_start_ray_commands", "--node-manager-port=8077", "--node-manager-port=8076"),
        "--object-manager-port and --node-manager-port have the same port 8076",
    ),
    "a port of the workers": (
        replaced("worker_start_ray_commands", "--node-manager-port=8077", "--node-manager-port=10500"),
        "--node-manager-port=10500 is one of the workers' ports, 10100 to 10999",
    ),
    "no port": (
        replaced("worker_start_ray_commands", "--node-manager-port=8077", "--node-manager-port=80777"),
        "--node-manager-port=80777 is no port",
    ),
    "workers' ports upside down": (
        replaced("worker_start_ray_commands", "--max-worker-port=10999", "--max-worker-port=10099"),
        "--min-worker-port=10100 is above --max-worker-port=10099",
    ),
    "another port of the head": (
        replaced("head_start_ray_commands", "--port=6379", "--port=6380"),
        "--address=$RAY_HEAD_IP:6379, but the head listens at port 6380",
    ),
    "no address of the head": (
        replaced("worker_start_ray_commands", "ray start --address=$RAY_HEAD_IP:6379", "ray start"),
        "write ray start --address=$RAY_HEAD_IP:6379",
    ),
    "other runs": (
        replaced("worker_start_ray_commands", "--runs /mnt/shared/runs", "--runs /mnt/shared/other"),
        "the workers check --runs /mnt/shared/other, the head --runs /mnt/shared/runs",
    ),
    "unknown key": (lambda c: c.update(max_worker=3), "Ray does not accept it"),
}


@pytest.mark.parametrize("name", AWS_FAULTS)
def test_a_fault_of_the_aws_file_is_refused(name: str, tmp_path: Path) -> None:
    edit, message = AWS_FAULTS[name]
    found = refused(check_file(aws(tmp_path, edit)))
    assert len([text for text in found if message in text]) == 1, found
    assert all(text.startswith("line ") for text in found)


ONPREM_FAULTS: dict[str, tuple[Edit, str]] = {
    "autoscaler v2": (
        replaced("head_start_ray_commands", "export RAY_enable_autoscaler_v2=0;", ""),
        "counts the head as one of the workers and starts one machine too few",
    ),
    "head among the workers": (
        lambda c: c["provider"].update(worker_ips=["10.0.0.1"]),
        "provider.worker_ips[0] 10.0.0.1 is the head already",
    ),
    "a worker twice": (lambda c: c["provider"].update(worker_ips=["10.0.0.2", "10.0.0.2"]), "is named twice"),
    "no worker": (lambda c: c["provider"].update(worker_ips=[]), "provider.worker_ips is missing"),
    "too few workers": (
        lambda c: c.update(max_workers=1),
        "max_workers = 1, but worker_ips names 2 machines; remove max_workers",
    ),
    "no workers at all": (lambda c: c.update(max_workers=0), "max_workers = 0, but worker_ips names 2 machines"),
    "no setup": (lambda c: c.pop("setup_commands"), "Write them as cluster/onprem.yaml does"),
    "loopback of version 6": (lambda c: c["provider"].update(head_ip="::1"), "::1 is this machine's own loopback"),
    "loopback": (lambda c: c["provider"].update(head_ip="127.0.1.1"), "127.0.1.1 is this machine's own loopback"),
    "an unknown name": (lambda c: c["provider"].update(head_ip="head.invalid"), "head.invalid has no address"),
    "node types": (
        lambda c: c.update(available_node_types={"a": {"node_config": {}, "resources": {}}}),
        "Ray does not accept it for the provider local",
    ),
    "no auth": (lambda c: c.pop("auth"), "auth.ssh_private_key is missing"),
    "no key": (lambda c: c["auth"].update(ssh_private_key="~/.ssh/none"), "there is no file ~/.ssh/none"),
}


@pytest.mark.parametrize("name", ONPREM_FAULTS)
def test_a_fault_of_the_file_for_own_machines_is_refused(
    name: str, tmp_path: Path, answering: list[tuple[str, int]]
) -> None:
    edit, message = ONPREM_FAULTS[name]
    found = refused(check_file(onprem(tmp_path, edit)))
    assert len([text for text in found if message in text]) == 1, found


def test_machines_behind_another_one_are_not_asked(tmp_path: Path, answering: list[tuple[str, int]]) -> None:
    edit: Edit = lambda c: c["auth"].update(ssh_proxy_command="ssh -W %h:%p gate")  # noqa: E731
    assert check_file(onprem(tmp_path, edit)) == [] and answering == []


@pytest.mark.parametrize("before", ["does not call it", "without the folder"])
def test_a_node_that_is_not_checked_is_remarked(before: str, tmp_path: Path) -> None:
    call = "wsss cluster check --here --runs /mnt/shared/runs &&"
    other = "" if before == "does not call it" else "wsss cluster check --here &&"
    (note,) = check_file(aws(tmp_path, replaced("worker_start_ray_commands", call, other)))
    assert not note.refused and note.where.endswith("worker_start_ray_commands[1]")
    assert ("does not check the node" in note.text) == (not other) and "--here --runs FOLDER" in note.text


def test_what_gitignore_names_is_not_copied_either(tmp_path: Path) -> None:
    edit: Edit = lambda c: c.update(rsync_exclude=[".git"], rsync_filter=[".gitignore"])  # noqa: E731
    assert check_file(aws(tmp_path, edit)) == []


def test_an_image_of_ones_own_may_need_no_setup(tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["docker"].update(image="lab/wsss:1")
        del config["setup_commands"]

    (note,) = check_file(aws(tmp_path, edit))
    assert not note.refused and note.where.endswith("setup_commands") and "is missing: nothing" in note.text


def test_machines_with_addresses_of_version_6(tmp_path: Path, answering: list[tuple[str, int]]) -> None:
    edit: Edit = lambda c: c["provider"].update(head_ip="fd00::1", worker_ips=["[fd00::2]"])  # noqa: E731
    assert check_file(onprem(tmp_path, edit)) == []
    assert sorted(answering) == [("fd00::1", 22), ("fd00::2", 22)]


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = aws(tmp_path)
    text = path.read_text()
    first = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("max_workers:"))
    path.write_text(text + "max_workers: 4\n")
    (found,) = refused(check_file(path))
    last = len(text.splitlines()) + 1
    assert found.startswith(f"line {last}: max_workers is also in line {first}, whose value is not used")


@pytest.fixture
def ssh_server() -> Iterator[int]:
    """Something that begins as an SSH server does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with server.accept()[0] as caller:
                caller.sendall(b"SSH-2.0-test\r\n")

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def test_an_address_that_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ssh_server: int
) -> None:
    """Real connections: on loopback, whose refusal is lifted here, with one port that answers and one that does not."""
    from cluster.check import own_machines

    monkeypatch.setattr("ipaddress.IPv4Address.is_loopback", False)
    monkeypatch.setattr(own_machines, "_SSH", ssh_server)
    monkeypatch.setattr(own_machines, "_SECONDS", 1.0)
    edit: Edit = lambda c: c["provider"].update(head_ip="127.0.0.1", worker_ips=["127.0.0.2"])  # noqa: E731
    (found,) = refused(check_file(onprem(tmp_path, edit)))
    assert f"provider.worker_ips[0] 127.0.0.2 does not answer at port {ssh_server} (Connection refused)" in found


def test_a_token_that_others_read_or_that_is_missing(tmp_path: Path, home: Path) -> None:
    token = home / ".ray/auth_token"
    token.chmod(0o644)
    (found,) = refused(check_file(aws(tmp_path)))
    assert "others on this machine may read the token; chmod 600 ~/.ray/auth_token" in found
    token.unlink()
    (found,) = refused(check_file(aws(tmp_path)))
    assert "there is no token ~/.ray/auth_token; make it once: ray get-auth-token --generate" in found
    token.write_text("short")
    token.chmod(0o600)
    (found,) = refused(check_file(aws(tmp_path)))
    assert "is empty or short" in found


def test_other_files_beside_the_token_are_named(tmp_path: Path, home: Path) -> None:
    (home / ".ray/notes").write_text("x")
    (note,) = check_file(aws(tmp_path))
    assert not note.refused and "holds more than the token: notes" in note.text


def test_a_key_that_is_open_protected_or_personal(tmp_path: Path, home: Path, answering: list[tuple[str, int]]) -> None:
    key = home / ".ssh/wsss_cluster"
    key.chmod(0o644)
    (found,) = refused(check_file(onprem(tmp_path)))
    assert "others may read ~/.ssh/wsss_cluster" in found
    key.chmod(0o600)
    key.write_text("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nabc")
    (found,) = refused(check_file(onprem(tmp_path)))
    assert "has a passphrase" in found
    for passphrase, count in (("secret", 1), ("", 0)):
        key.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(key)], check=True)
        several = refused(check_file(onprem(tmp_path)))
        assert len(several) == count and all("has a passphrase" in text for text in several)
    key.write_text(key.with_suffix(".pub").read_text())
    (found,) = refused(check_file(onprem(tmp_path)))
    assert "is a public key" in found
    key.write_text("key")
    key.rename(home / ".ssh/id_ed25519")
    edit: Edit = lambda c: c["auth"].update(ssh_private_key="~/.ssh/id_ed25519")  # noqa: E731
    (note,) = check_file(onprem(tmp_path, edit))
    assert not note.refused and "is copied to the head (~/ray_bootstrap_key.pem)" in note.text


def test_the_folder_of_the_caller_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~/wsss: .` is the folder in which `ray up` is called: not that of the file."""
    path = aws(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (found,) = refused(check_file(path))
    assert f". is {elsewhere} here, which is not the project" in found and "file_mounts.~/wsss" in found


def test_the_command_prints_80_columns_and_returns_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answering: list[tuple[str, int]]
) -> None:
    assert check(AWS, running=None, here=False, runs=None) == 1
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= max(80, len(str(AWS)) + 12)
    assert "refused: line" in text and text.endswith(f"{AWS}: 2 faults\n")
    path = onprem(tmp_path)
    assert check(path, running=None, here=False, runs=None) == 0
    assert capsys.readouterr().out == f"{path}: in order\n"


def test_what_is_no_cluster_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with pytest.raises(ValueError, match=r"cannot be read: .*No such file"):
        check_file(path)
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"no text in UTF-8: .*x\.yaml"):
        check_file(path)
    path.write_text("a: &a {b: *a}")
    with pytest.raises(ValueError, match=r"holds a part that contains itself .*x\.yaml"):
        check_file(path)
    with pytest.raises(ValueError, match=r"is a Kubernetes manifest.*use `kubectl apply --filename"):
        check_file(ROOT / "cluster" / "kubernetes" / "rayjob.yaml")
    path.write_text("a: [1")
    with pytest.raises(ValueError, match="is no YAML"):
        check_file(path)
    path.write_text("")
    with pytest.raises(ValueError, match="holds no settings"):
        check_file(path)
    with pytest.raises(ValueError, match="give one of FILE, --running and --here"):
        check(None, running=None, here=False, runs=None)
    with pytest.raises(ValueError, match="--runs belongs to --running and --here"):
        check(AWS, running=None, here=False, runs=Path(os.sep))
    for place in ("ray", "local", "host", "host:99999", "host:0", "[fd00::1]"):
        with pytest.raises(
            ValueError, match=r"--running .*: (allowed are auto|\d+ is no port; allowed are 1 to 65535)"
        ):
            check(None, running=place, here=False, runs=None)


def test_keys_that_are_no_texts_are_named(tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["available_node_types"][7] = {"resources": {1: 2}, "node_config": {}}

    found = refused(check_file(aws(tmp_path, edit)))
    assert ["the key 7 is no text; write it in quotes: '7'" in text for text in found] == [True, False]
    assert "available_node_types.7.resources the key 1 is no text" in found[1]
