"""A cluster file of `ray up`: its values, and the line of each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class ClusterFile:
    """A cluster file that could be read."""

    path: Path
    config: Mapping[str, Any]
    _root: yaml.MappingNode = field(repr=False)
    _lines: Sequence[str] = field(repr=False)

    @property
    def provider(self) -> str:
        """The kind of provider: aws, local, gcp, …"""
        return str((self.config.get("provider") or {}).get("type", ""))

    @property
    def docker(self) -> Mapping[str, Any]:
        """The docker section that applies to all nodes; empty without containers."""
        return self.config.get("docker") or {}

    @property
    def node_types(self) -> Mapping[str, Any]:
        """Name -> node type."""
        return self.config.get("available_node_types") or {}

    def commands(self, name: str) -> list[str]:
        """The commands of a list such as `setup_commands`."""
        return [str(command) for command in self.config.get(name) or []]

    def where(self, *keys: str | int, text: str = "") -> str:
        """`line 12: docker.image`; for a value that is missing, the line of the part that exists.

        `text`: a part of a value of several lines, whose own line is to be given.
        """
        node: yaml.Node = self._root
        for key in keys:
            found = _child(node, key)
            if found is None:
                break
            node = found
        first, last = node.start_mark.line, max(node.start_mark.line + 1, node.end_mark.line)
        line = next((number for number in range(first, last) if text and text in self._lines[number]), first)
        return f"line {line + 1}: {dotted(keys)}" if keys else f"line {line + 1}"

    def repeated_keys(self) -> Iterator[tuple[str, int, int]]:
        """Each key that stands twice in one mapping, and the two lines; YAML keeps the last value alone."""
        yield from _repeated((), self._root, seen=set())

    def other_keys(self) -> Iterator[tuple[tuple[str | int, ...], Any]]:
        """Each key that is no text, and the keys that lead to it."""
        yield from _other_keys((), self.config)

    def texts(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every text in the file, with its keys."""
        yield from _texts((), self.config)


def read_cluster_file(path: Path) -> ClusterFile:
    """Read a cluster file. Raises ValueError, which names the file, if it is missing or no YAML mapping."""
    text = _text(path)
    if re.search(r"^apiVersion:", text, re.MULTILINE) and re.search(r"^kind:", text, re.MULTILINE):
        raise ValueError(
            f"{path} is a Kubernetes manifest, not a cluster file of `ray up`; use `kubectl apply --filename {path}` "
            "(cluster/kubernetes/README.md)"
        )
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if root is not None and _contains_itself(root, set(), set()):
            raise ValueError(
                f"the cluster file holds a part that contains itself (an anchor & and its alias *): {path}"
            )
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the cluster file is no YAML: {path}: {' '.join(str(error).split())}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"the cluster file holds no settings: {path}; ray_cluster.yaml is an example")
    return ClusterFile(path=path, config=config, _root=root, _lines=text.splitlines())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the cluster file cannot be read: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"the cluster file is no text in UTF-8: {path}; ray_cluster.yaml is an example") from error


def _contains_itself(node: yaml.Node, inside: set[int], whole: set[int]) -> bool:
    """`inside`: the nodes that lead to this one; `whole`: those that were looked at to their ends."""
    if id(node) in inside:
        return True
    if id(node) in whole:
        return False
    inside.add(id(node))
    found = any(_contains_itself(part, inside, whole) for part in _parts(node))
    inside.remove(id(node))
    whole.add(id(node))
    return found


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def dotted(keys: tuple[str | int, ...]) -> str:
    """`file_mounts.~/wsss`, `setup_commands[2]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _child(node: yaml.Node, key: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
        return node.value[key] if key < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == key), None)
    return None


def _texts(keys: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _texts((*keys, str(name)), part)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _texts((*keys, number), part)


def _repeated(keys: tuple[str | int, ...], node: yaml.Node, *, seen: set[int]) -> Iterator[tuple[str, int, int]]:
    if id(node) in seen:  # an alias of a part that was looked at
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            yield from _repeated((*keys, number), part, seen=seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                yield dotted((*keys, name)), lines[name], line
            lines[name] = line
            yield from _repeated((*keys, name), value, seen=seen)


def _other_keys(keys: tuple[str | int, ...], value: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, Mapping):
        for name, part in value.items():
            if not isinstance(name, str):
                yield keys, name
            yield from _other_keys((*keys, str(name)), part)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _other_keys((*keys, number), part)
