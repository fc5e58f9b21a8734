"""The stages that work on a folder of pictures, put together without a recipe, and their run.

Everything is done by the stages of recipes and by their runtimes, in a folder of runs inside OUT: work that was stopped
is resumed, unreadable pictures are recorded, and the results are the same bytes on any runtime.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.files import replacing
from shards.records import RunRecord
from wsss.contract.fit import WEIGHTS
from wsss.contract.runtime import Runtime, RuntimeSettings, Tracker
from wsss.contract.stage import Instance, Map, Stage
from wsss.pipeline.missing_records import TooManyMissingError
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import Recipe, RecipeSettings, placed_instance
from wsss.pipeline.run import run_recipe
from wsss.stages.build_shards import BuildShards
from wsss.use.model_file import ModelFile

WORK = ".wsss"
"""The folder inside OUT that holds unfinished work; it is removed at the end."""
CLASSES, TABLE = "classes.txt", "pictures.csv"
SAMPLES = "pictures"
_SHARD_SIZE = 32
"""Pictures that a worker processes at a time; what is lost if it is killed."""


@dataclass(frozen=True, kw_only=True)
class FolderChain:
    """Instances from a folder of pictures to the layer of its masks."""

    root: Path
    instances: tuple[Instance, ...]
    """Those that run, in order: the pictures first, the masks last."""
    runtime: RuntimeSettings

    @property
    def samples(self) -> Instance:
        return self.instances[0]

    @property
    def masks(self) -> Instance:
        return self.instances[-1]

    def run(self, runtime: Runtime, reporter: Reporter) -> None:
        """Run what is not done yet. Raises ValueError if no picture can be read."""
        settings = RecipeSettings(name="folder")
        recipe = Recipe(self.root, settings, self.runtime, self.instances, {})
        try:
            # Work on a folder is not an experiment: MLflow hears nothing of it.
            run_recipe(recipe, runtime=runtime, tracker=Tracker(), reporter=reporter)
        except TooManyMissingError as error:
            reasons = str(error).partition("allows:")[2].partition("\nAll reasons")[0]
            raise ValueError(f"none of the pictures in {self.root} can be used:{reasons or f' {error}'}") from None


def work_folder(out: Path) -> Path:
    """Where the work on a folder of results is kept while it is not finished."""
    return out / WORK


def make_chain(
    root: Path,
    *,
    out: Path,
    table: Path,
    split: str,
    models: Mapping[str, ModelFile],
    stages: Sequence[tuple[str, Stage, Mapping[str, str]]],
    runtime: RuntimeSettings,
) -> FolderChain:
    """The instances. `table`: names the pictures of `split`, and their labels if the stages read them.

    `models`: name -> a trained network. `stages`: name, stage and inputs (slot -> name of a model or an earlier stage;
    the pictures are filled in). Raises ValueError if they do not fit together, with the name of the setting.
    """
    (classes,) = {model.metadata.classes for model in models.values()}
    (work_folder(out) / CLASSES).write_text("".join(f"{name}\n" for name in classes))
    samples = BuildShards(
        source="folder",
        root=str(root.absolute()),
        lists={split: str(table.absolute())},
        class_list=str((work_folder(out) / CLASSES).absolute()),
        splits=(split,),
        shard_size=_SHARD_SIZE,
    )
    named = {SAMPLES: placed_instance(SAMPLES, samples, {}, seed=0, runs=runtime.runs)}
    for name, model in models.items():
        named[name] = _placed_model(name, model, named[SAMPLES], runs=runtime.runs)
    ran = [named[SAMPLES]]
    for name, stage, inputs in stages:
        filled = {slot: named[inputs.get(slot, SAMPLES)] for slot in stage.used_slots()}
        ran.append(placed_instance(name, stage, filled, seed=0, runs=runtime.runs))
        named[name] = ran[-1]
    assert all(isinstance(instance.stage, Map) for instance in ran)
    return FolderChain(root=root, instances=tuple(ran), runtime=runtime)


def _placed_model(name: str, model: ModelFile, samples: Instance, *, runs: Path) -> Instance:
    """The model as a finished training: its file is linked into the folder of runs, or copied where links fail."""
    digest = model.digest()
    folder = runs.absolute() / "store" / f"model-{digest[:16]}"
    instance = Instance(
        name=name, stage=model.stage, seed=0, inputs={"samples": samples}, fingerprint=digest, path=folder
    )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WEIGHTS).exists():
        try:
            (folder / WEIGHTS).unlink(missing_ok=True)
            (folder / WEIGHTS).symlink_to(model.path)
        except OSError:
            with replacing(folder / WEIGHTS, what="a copy of the model") as copy, model.path.open("rb") as file:
                shutil.copyfileobj(file, copy)
    instance.write_run_record(
        RunRecord(
            recipe="folder",
            instance=name,
            kind=model.metadata.kind,
            fingerprint=digest,
            settings={},
            upstream={},
            git_commit="",
            metrics={},
        )
    )
    return instance
