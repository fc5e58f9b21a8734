"""All kinds of stage by name: commands, TOML tables, sweepable names and planned costs are derived from this list.

The kind `make_cams` is the class `MakeCams` in the module `wsss.stages.make_cams`. It is imported when it is first
used, so that listing the kinds is fast. Other packages add stages by an entry point of the group `wsss.stages`
(`my_maps = "my_package.my_maps:MyMaps"`, where the name is the kind), or by `register`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing these would make the command line slower, which lists the kinds
    from wsss.contract.slots import Slot
    from wsss.contract.stage import Stage

_KINDS = (
    "build_shards",
    "train_classifier",
    "make_cams",
    "make_prototypes",
    "make_seeds",
    "train_affinity",
    "make_scores",
    "make_pseudo_labels",
    "make_agreed_labels",
    "keep_reliable_labels",
    "make_instance_labels",
    "train_ancillary",
    "train_correction",
    "train_segmenter",
    "make_segmenter_maps",
    "predict",
    "evaluate",
    "submit",
)
ENTRY_POINTS = "wsss.stages"
"""Group of the entry points by which other packages add stages."""


class Registry(Mapping[str, "type[Stage]"]):
    """Kind -> class of stage, imported on use."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._own = dict.fromkeys(kinds)
        self._registered: dict[str, type[Stage]] = {}
        self._announced: dict[str, EntryPoint] | None = None

    def __getitem__(self, kind: str) -> type[Stage]:
        if kind in self._registered:
            return self._registered[kind]
        if kind in self._own:
            module = import_module(f"wsss.stages.{kind}")
            stage: type[Stage] = getattr(module, "".join(word.capitalize() for word in kind.split("_")))
            return stage
        return self._load(kind, self._entry_points()[kind])

    def _kinds(self) -> dict[str, None]:
        return dict.fromkeys([*self._own, *self._entry_points(), *self._registered])

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds())

    def __len__(self) -> int:
        return len(self._kinds())

    def __contains__(self, kind: object) -> bool:
        return kind in self._own or kind in self._registered or kind in self._entry_points()

    def register(self, stage: type[Stage]) -> type[Stage]:
        """Add a kind from outside the package; usable as a class decorator. Raises ValueError if the kind exists."""
        if stage.kind in self and self[stage.kind] is not stage:
            raise ValueError(
                f"the stage kind {stage.kind!r} already exists, in {self[stage.kind].__module__}; use another kind"
            )
        self._registered[stage.kind] = stage
        return stage

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._announced is None:
            self._announced = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
            if taken := sorted(set(self._announced) & set(self._own)):
                point = self._announced[taken[0]]
                raise ValueError(
                    f"the entry point {point.value!r} uses the name {taken[0]!r}, which is a kind of wsss; rename it"
                )
        return self._announced

    def _load(self, kind: str, point: EntryPoint) -> type[Stage]:
        from wsss.contract.stage import Stage

        stage = point.load()
        if not (isinstance(stage, type) and issubclass(stage, Stage) and getattr(stage, "kind", None) == kind):
            raise ValueError(
                f"the entry point {kind} = {point.value!r} of group {ENTRY_POINTS} must name a class of "
                f"wsss.contract.stage.Stage whose kind is {kind!r}; got {stage!r}"
            )
        return stage


STAGES = Registry(_KINDS)


def register(stage: type[Stage]) -> type[Stage]:
    """Add a kind of stage from outside the package to `STAGES`."""
    return STAGES.register(stage)


def producers(slot: Slot) -> list[str]:
    """The kinds of stage that may fill a slot. It imports all stages, so use it only for messages."""
    return [kind for kind in STAGES if slot.accepts(STAGES[kind])]
