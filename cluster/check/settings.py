"""Checks of a cluster file that concern every provider: its schema, placeholders, images and versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jsonschema

from cluster.check.cluster_file import ClusterFile, dotted
from cluster.check.findings import Finding
from cluster.check.versions import installed, pinned

_PLACEHOLDERS = {
    re.compile(r"\bfs-0{8,}\b"): "the id of your EFS file system (aws efs describe-file-systems); see cluster/aws.md",
    re.compile(r"\bsg-0{8,}\b"): "the id of the cluster's security group; see cluster/aws.md",
    re.compile(r"\bami-0{8,}\b"): "the id of a machine image, or a lookup as in ray_cluster.yaml",
    re.compile(r"\bHEAD_ADDRESS\b"): "the address of the head node",
    re.compile(r"\bWORKER_ADDRESS\b"): "the addresses of the workers, separated by commas",
    re.compile(r"^USER$"): "the user of the machines, as in ssh USER@ADDRESS",
    re.compile(r"^(REGISTRY|ACCOUNT)\b|\bYOUR[-_]\w+|<[A-Za-z][\w -]*>|@[A-Z][A-Z_]+@"): "your own value",
}
"""Text that stands for a value of the user -> what to put there."""
_IMAGES = ("image", "head_image", "worker_image")
_PUBLIC_IMAGE = re.compile(r"(?:docker\.io/)?rayproject/ray(?:-ml)?:(\d+\.\d+\.\d+)(?:\.[0-9a-f]+)?-py(\d)(\d+)")
_RAY_PIN = re.compile(r"\bray(?:\[[^\]]*\])?==([\w.]+)")
_PROVIDERS = (
    "aws",
    "azure",
    "gcp",
    "local",
    "aliyun",
    "vsphere",
    "external",
    "fake_multinode",
    "fake_multinode_docker",
)
"""Providers with which `ray up` starts machines."""
_PYTHONS = ("3.11", "3.12")


def schema_faults(file: ClusterFile) -> Iterator[Finding]:
    """What Ray's own schema refuses."""
    spec = find_spec("ray")
    if spec is None or spec.origin is None:
        yield Finding("ray", "is not installed here: install this package, whose command `ray up` is used")
        return
    if others := list(file.other_keys()):
        for keys, key in others:
            yield Finding(file.where(*keys), f"the key {key!r} is no text; write it in quotes: '{key}'")
        return  # the schema compares texts
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    for error in jsonschema.Draft7Validator(schema).iter_errors(file.config):
        yield Finding(file.where(*error.absolute_path), f"Ray does not accept it: {error.message}")


def check(file: ClusterFile) -> Iterator[Finding]:
    """Placeholders, node types, images and versions."""
    yield from placeholders(file)
    if file.provider not in _PROVIDERS:
        yield Finding(
            file.where("provider", "type"), f"{file.provider!r} is no provider; allowed are {', '.join(_PROVIDERS[:4])}"
        )
    for name, first, second in file.repeated_keys():
        yield Finding(f"line {second}: {name}", f"is also in line {first}, whose value is not used; keep one of them")
    yield from _setup(file)
    yield from _node_types(file)
    yield from _images(file)
    yield from _versions(file)


def placeholders(file: ClusterFile) -> Iterator[Finding]:
    """Texts that stand for a value of the user."""
    seen: set[tuple[str, str]] = set()
    for keys, text in file.texts():
        for pattern, what in _PLACEHOLDERS.items():
            found = pattern.search(text)
            # An anchor of YAML puts one line into several settings.
            if found is None:
                continue
            where = file.where(*keys, text=found[0])
            if (place := (where.partition(":")[0], found[0])) not in seen:
                seen.add(place)
                yield Finding(where, f"{found[0]} is a placeholder; put {what}")


def _node_types(file: ClusterFile) -> Iterator[Finding]:
    if not file.node_types:
        return
    head = file.config.get("head_node_type")
    if head not in file.node_types:
        yield Finding(
            file.where("head_node_type"),
            f"there is no node type {head!r}; allowed are {', '.join(file.node_types)}",
        )
    most = file.config.get("max_workers")
    limits = [kind.get("max_workers", most) for name, kind in file.node_types.items() if name != head]
    if most == 0 or (limits and all(limit == 0 for limit in limits)):
        yield Finding(file.where("max_workers"), "no worker may start: max_workers is 0; write how many may at most")
        return
    wanted = sum(kind.get("min_workers", 0) for name, kind in file.node_types.items() if name != head)
    if most is not None and wanted > most:
        yield Finding(
            file.where("max_workers"), f"max_workers = {most}, but min_workers of the node types add up to {wanted}"
        )


def _setup(file: ClusterFile) -> Iterator[Finding]:
    """The packages are installed by the setup commands, or are in an image of the user's own."""
    if file.commands("setup_commands"):
        return
    if file.commands("head_setup_commands") and file.commands("worker_setup_commands"):
        return
    image = str(file.docker.get("image") or "")
    yield Finding(
        file.where("setup_commands"),
        "is missing: nothing installs the package and its libraries on the nodes. Write them as "
        f"{'cluster/onprem.yaml' if file.provider == 'local' else 'ray_cluster.yaml'} does",
        refused=not image or "rayproject/" in image,
    )


def _images(file: ClusterFile) -> Iterator[Finding]:
    docker = file.docker
    if not docker:
        return
    if not docker.get("image"):
        yield Finding(
            file.where("docker", "image"),
            "is missing. Ray's autoscaler needs it for every worker, even where head_image and worker_image are given: "
            "without it instances are started, fail and are paid for. Name the image that most nodes use",
        )
    tested = pinned("ray", file.path.resolve().parent) or pinned("ray", Path.cwd()) or installed("ray")
    places = [("docker",), *(("available_node_types", name, "docker") for name in file.node_types)]
    sections = [docker, *(kind.get("docker") or {} for kind in file.node_types.values())]
    for keys, section in zip(places, sections, strict=True):
        for name in _IMAGES:
            if image := section.get(name):
                yield from _image(file.where(*keys, name), str(image), tested)


def _image(where: str, image: str, tested: str) -> Iterator[Finding]:
    found = _PUBLIC_IMAGE.fullmatch(re.sub(r"-(cpu|gpu|cu\w+|tpu|aarch64)\b.*$", "", image))
    if found is None:
        if "rayproject/" in image:
            yield Finding(
                where,
                f"{image} does not name a version of Ray and Python; "
                f"allowed: rayproject/ray:{tested}-py311-cpu, or an image of your own",
            )
        elif ":" not in image.rpartition("/")[2] or image.endswith(":latest"):
            yield Finding(where, f"{image} has no version, so that nodes can differ; add a tag or a digest")
        return
    if found[1] != tested:
        yield Finding(
            where,
            f"{image} holds Ray {found[1]}, constraints.txt {tested}: nodes with different versions do not talk to "
            f"each other; use {tested}",
        )
    if (python := f"{found[2]}.{found[3]}") not in _PYTHONS:
        yield Finding(where, f"{image} holds Python {python}; allowed are {' and '.join(_PYTHONS)}")


def _versions(file: ClusterFile) -> Iterator[Finding]:
    folder = Path.cwd()
    tested, here = pinned("ray", folder), installed("ray")
    if tested and here and tested != here:
        yield Finding(
            "ray",
            f"this machine has Ray {here}, constraints.txt {tested}: `ray up` and `ray job submit` need the version of "
            f"the cluster; run `make demo` once, or pip install --constraint constraints.txt ray",
        )
    for name in ("setup_commands", "head_setup_commands", "worker_setup_commands", "initialization_commands"):
        for number, command in enumerate(file.commands(name)):
            for version in _RAY_PIN.findall(command):
                if tested and version != tested:
                    yield Finding(
                        file.where(name, number),
                        f"{dotted((name, number))} installs Ray {version}, constraints.txt has {tested}; use {tested}",
                    )
            if re.search(r"\bpip install\b", command) and "wsss" in command and "--constraint" not in command:
                yield Finding(
                    file.where(name, number),
                    "installs the package without --constraint ~/wsss/constraints.txt, so that nodes that start on "
                    "different days get different versions",
                )
