"""A file of trained weights as a stage of this project: which network it holds, and how to make it.

The description is in the file's header. Files that were written before they had one are read inside their run's folder,
which has the same facts in settings.json and in the index of the samples.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from shards.files import sha256_of
from shards.layer import Layer, ShardError
from shards.records import Sample
from shards.taxonomy import Taxonomy
from wsss.contract.fit import WEIGHTS, Fit, is_whole, load_weights
from wsss.contract.settings import hashed_values, settings
from wsss.contract.stage import DataStage, Instance, ShardWorker
from wsss.contract.weights_metadata import WeightsMetadata, read_metadata
from wsss.pipeline.wrong_values import first_complaint
from wsss.stages.registry import STAGES
from wsss.stages.segmenter.image_segmenter import ImageSegmenterTraining
from wsss.stages.settings.trained_sizes import trained_sides

SETTINGS = "settings.json"
MODEL = "model"
_PATHS = {"pretrained": "none"}
"""Settings that name a file which a finished network does not need -> the value that stands for no file."""


@settings
class KnownClasses(DataStage):
    """Stands for the data set that a network was trained on: its class list."""

    kind: ClassVar[str] = "known_classes"

    names: tuple[str, ...]
    """Names of the foreground classes, in the order of their ids."""

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(self.names)

    def worker(self, instance: Instance) -> ShardWorker:
        raise NotImplementedError("the images that a network was trained on are not known")


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file of trained weights that was found to describe itself."""

    path: Path
    metadata: WeightsMetadata
    stage: Fit
    """The training, with the settings that shape the network."""

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy(self.metadata.classes)

    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256_of(self.path)

    def instance(self, samples: Instance | None = None) -> Instance:
        """The training as an instance in the file's folder; `samples`: the images that it will be used on."""
        return Instance(
            name=MODEL,
            stage=self.stage,
            seed=0,
            inputs={"samples": samples or self._known_classes()},
            fingerprint=self.metadata.fingerprint,
            path=self.path.parent,
        )

    def network(self, *, device: str = "cpu") -> Any:
        """The network in evaluation mode. Raises ValueError if the weights are not those of the described network."""
        if not is_whole(self.path):
            raise ValueError(f"{self.path} is shorter or longer than its header says; copy it again")
        network = load_weights(self.instance(), self.path, device=device)
        for name, value in network.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ValueError(
                    f"{self.path}: {name} has values that are not finite, so every result would be meaningless; the "
                    "training that wrote it diverged, or the file is damaged: give another one"
                )
        return network

    def check(self) -> None:
        """Raise ValueError as `network` does, before any work."""
        self.network()

    def _known_classes(self) -> Instance:
        stage = KnownClasses(names=self.metadata.classes)
        return Instance(name="classes", stage=stage, seed=0, inputs={}, fingerprint="", path=self.path.parent)


def read_model(path: Path, *, wanted: type[Fit], use: str) -> ModelFile:
    """The model in a weight file, or in the folder of a training.

    `wanted`: the class of trainings that `use`, such as "wsss predict-folder", can work with. Raises ValueError, saying
    what to give instead, for a file without a description, and for one of another kind or version.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise ValueError(f"{path} has no {WEIGHTS}: give a file of weights, or the folder of a finished training")
    metadata = read_metadata(file) or _from_run(file)
    stage = _stage(metadata, file)
    if not isinstance(stage, wanted):
        raise ValueError(f"{file} holds {_an(type(stage).trains)} ({metadata.kind}); {use} needs {_an(wanted.trains)}")
    return ModelFile(path=file.absolute(), metadata=metadata, stage=stage)


def _an(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def learned_side(model: ModelFile) -> int:
    """The longer side of a picture, in pixels, in the middle of those that the network learned from."""
    low, high = trained_sides(model.stage)
    return (low + high) // 2


def read_segmenter(path: Path, *, use: str) -> ModelFile:
    """As `read_model`, for a segmenter that needs only an image."""
    return read_model(path, wanted=ImageSegmenterTraining, use=use)


def _stage(metadata: WeightsMetadata, file: Path) -> Fit:
    if metadata.kind not in STAGES:
        raise ValueError(
            f"{file} was trained by {metadata.kind!r}, which is not installed here; install the version or the package "
            "that has it"
        )
    cls = STAGES[metadata.kind]
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(metadata.settings) - known):
        raise ValueError(
            f"{file} has the setting {metadata.kind}.{unknown[0]}, which this version does not know: it was written by "
            "another version of wsss, which can use it"
        )
    values = {name: value for name, value in metadata.settings.items() if not str(value).startswith("sha256:")}
    try:
        stage = cls(**values | {name: value for name, value in _PATHS.items() if name in known})
    except ValidationError as error:
        raise ValueError(f"the metadata of {file} are not valid: {first_complaint(error, metadata.kind)}") from None
    assert isinstance(stage, Fit)
    if metadata.revision not in (0, revision := stage.own_revision()):
        warnings.warn(
            f"{file} was trained by revision {metadata.revision} of {metadata.kind}, this version has {revision}: "
            "the network may give other results than in its run",
            stacklevel=4,
        )
    return stage


def _from_run(file: Path) -> WeightsMetadata:
    """The description of a file without one, from the run's folder that it is in."""
    missing = ValueError(
        f"{file} has no metadata of wsss, so its classes and its network are not known. Give a file that wsss trained; "
        "one of an earlier version is read in its own folder (RUNS/store/train_...), and `wsss export FOLDER "
        "--weights FILE` writes it once more, with metadata"
    )
    try:
        lineage = json.loads((file.parent / SETTINGS).read_bytes())
        classes = _classes_behind(lineage, store=file.parent.parent)
        (prefix,) = {name.partition(".")[0] for name in lineage["settings"]}
        own = {name.partition(".")[2]: value for name, value in lineage["settings"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise missing from None
    if classes is None or not prefix:
        raise missing
    return WeightsMetadata(
        kind=lineage["kind"],
        revision=0,
        fingerprint=lineage["fingerprint"],
        classes=classes,
        settings={name: value for name, value in own.items() if not name.startswith("inputs.")},
    )


def _classes_behind(lineage: Mapping[str, Any], *, store: Path) -> tuple[str, ...] | None:
    """The class names of the samples that a training read, from the layer beside it or from the settings."""
    for one in _behind(lineage):
        layer = Layer(store / f"{one['kind']}-{one['fingerprint'][:16]}", Sample.kind)
        try:
            if found := layer.classes():
                return found
        except ShardError:
            continue
    for one in _behind(lineage):
        for name, value in one["settings"].items():
            if name.endswith(".class_names") and value:
                return tuple(value)
    return None


def _behind(lineage: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Everything that a training read, directly or not."""
    for upstream in lineage["upstream"].values():
        yield upstream
        yield from _behind(upstream)


def with_own_metadata(model: ModelFile) -> ModelFile:
    """The model with a description as a training writes it, also if it was found in the folder of its run."""
    settings_now = hashed_values(model.stage) if not model.metadata.revision else model.metadata.settings
    return replace(model, metadata=replace(model.metadata, settings=settings_now, revision=model.stage.own_revision()))
