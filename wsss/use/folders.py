"""`wsss predict-folder` and `wsss label-folder`: masks of all pictures below a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from shards.output_places import check_output_folder
from shards.wording import counted
from wsss.contract.runtime import Runtime, RuntimeSettings
from wsss.contract.settings import hashed_values
from wsss.contract.stage import Stage
from wsss.pipeline.dry_recipe import dry_recipe
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import RecipeError
from wsss.pipeline.recipe_tables import apply_override, unknown_setting
from wsss.pipeline.wrong_values import first_complaint
from wsss.stages.affinity.training import AffinityTraining
from wsss.stages.classifier.training import ClassifierTraining
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.predict import Predict
from wsss.use.coco_file import write_coco
from wsss.use.folder_chain import TABLE, FolderChain, make_chain, work_folder
from wsss.use.folder_results import (
    MASKS,
    PICTURES,
    FolderSummary,
    begun,
    draw_overlays,
    finish,
    is_finished,
    kept_summary,
    write_results,
)
from wsss.use.label_file import read_labels
from wsss.use.model_file import ModelFile, learned_side, read_model, read_segmenter
from wsss.use.picture_folder import (
    SPLIT,
    PictureFolder,
    find_pictures,
    key_of_picture,
    refuse_inside,
    with_state_of_files,
    write_table,
)

MakeRuntime = Callable[[RuntimeSettings], Runtime]
_RUNTIME = "runtime."
LABEL_STAGES: dict[str, type[Stage]] = {
    "make_cams": MakeCams,
    "make_scores": MakeScores,
    "make_pseudo_labels": MakePseudoLabels,
}
"""The stages of `wsss label-folder`, in order."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What both commands are given besides their model."""

    root: Path
    out: Path
    overrides: Sequence[str]
    """`NAME=VALUE`: settings of the stages, and of `runtime`."""
    overlays: bool
    """Also draw the masks over the pictures."""
    coco: bool
    """Also write coco.json."""
    make_runtime: MakeRuntime
    console: Console

    def runtime(self) -> RuntimeSettings:
        """The settings of the runtime. Raises ValueError for a wrong one."""
        tables: dict[str, Any] = {}
        for override in self.overrides:
            if override.startswith(_RUNTIME):
                apply_override(tables, {}, override)
        given = tables.get("runtime", {})
        if taken := sorted({"runs", "max_missing"} & set(given)):
            raise ValueError(f"--set runtime.{taken[0]}: it is not read here; the work is kept in OUT")
        return _built(RuntimeSettings, {**given, "runs": work_folder(self.out), "max_missing": 1.0}, where="runtime")

    def of_stages(self) -> list[str]:
        """The overrides of stages."""
        return [override for override in self.overrides if not override.startswith(_RUNTIME)]


def predict_folder(given: Folders, *, model_path: Path, settings: Mapping[str, Any]) -> FolderSummary:
    """Segment all pictures below a folder; `settings`: of the stage predict, such as scales and flip.

    Raises ValueError for a model, folder or setting that does not fit, before anything is written.
    """
    _check_folders(given)
    models = {"model": read_segmenter(model_path, use="wsss predict-folder")}
    # The size that the network learned from, unless another one is asked for: photos may be ten times as large.
    chosen = {"long_side": learned_side(models["model"]), **settings}
    tables: dict[str, Any] = {"stages": {"predict": chosen}}
    _override(tables, given.of_stages())
    stages: dict[str, Stage] = {
        "predict": _built(Predict, {**tables["stages"]["predict"], "splits": (SPLIT,)}, where="predict")
    }
    if getattr(stages["predict"], "prior_weight", 0):
        raise ValueError(
            "predict.prior_weight weights classes by a classifier, but wsss predict-folder has only a segmenter; "
            "remove this setting"
        )
    runtime = given.runtime()
    for model in models.values():
        model.check()
    found = find_pictures(given.root)
    with begun(given.out, models=_about(models), settings=_settings(stages)):
        table = work_folder(given.out) / TABLE
        write_table(found.pictures, table)
        chain = make_chain(
            given.root,
            out=given.out,
            table=table,
            split=SPLIT,
            models=models,
            stages=[("predict", stages["predict"], {"segmenter": "model"})],
            runtime=runtime,
        )
    return _run("predict-folder", given, chain, models, found.pictures, found)


def label_folder(
    given: Folders, *, model_path: Path, labels: Path, affinity: Path | None, recipe: Path | None, split: str
) -> FolderSummary:
    """Make pseudo labels of pictures whose classes are given: maps of the classifier, the random walk of the affinity
    network if there is one, a threshold and the dense CRF. `split`: only these rows of the table; empty: all.

    Raises ValueError for what does not fit, before anything is written.
    """
    _check_folders(given)
    find_pictures(given.root)
    models = {"model": read_model(model_path, wanted=ClassifierTraining, use="wsss label-folder")}
    if affinity is not None:
        models["affinity"] = read_model(affinity, wanted=AffinityTraining, use="--affinity")
    _require_same_classes(models)
    stages = label_stages(recipe, given.of_stages(), split=split or SPLIT, walks=affinity is not None)
    listed = read_labels(labels, given.root, models["model"].taxonomy, split=split)
    runtime = given.runtime()
    for model in models.values():
        model.check()
    inputs = {
        "make_cams": {"classifier": "model"},
        "make_scores": {"cams": "make_cams", "affinity": "affinity"},
        "make_pseudo_labels": {"scores": "make_scores"},
    }
    with begun(given.out, models=_about(models), settings=_settings(stages)):
        chain = make_chain(
            given.root,
            out=given.out,
            table=labels,
            split=split or SPLIT,
            models=models,
            stages=[(name, stage, inputs[name]) for name, stage in stages.items()],
            runtime=runtime,
        )
    for note in listed.notes:
        given.console.print(f"note   {labels}: {note}", markup=False, highlight=False, soft_wrap=True)
    return _run("label-folder", given, chain, models, listed.pictures, None)


def _check_folders(given: Folders) -> None:
    refuse_inside(given.out, given.root)
    check_output_folder(given.out, option="OUT =")


def _override(tables: dict[str, Any], overrides: Sequence[str]) -> None:
    for override in overrides:
        apply_override(tables, {}, override)
    if extra := sorted(set(tables) - {"stages"}):
        raise ValueError(f"--set {extra[0]}.…: allowed are settings of {', '.join(tables['stages'])} and runtime")


def label_stages(recipe: Path | None, overrides: Sequence[str], *, split: str, walks: bool) -> dict[str, Stage]:
    """The stages of `wsss label-folder` with the settings of a recipe, or with their defaults, and with overrides.

    Raises ValueError for an unknown setting or value, and for a recipe that lacks one of the stages.
    """
    fixed: dict[str, Any] = {"splits": (split,), "max_shards": None}
    own: dict[str, dict[str, Any]] = {
        "make_cams": {"second_classifier": False, "train_images": "all"},
        "make_scores": {"propagation": "walk" if walks else "none"},
    }
    stages: dict[str, Stage] = {}
    if recipe is not None:
        given = _of_recipe(recipe, overrides)
        stages = {name: replace(stage, **fixed | own.get(name, {})) for name, stage in given.items()}
    else:
        tables: dict[str, Any] = {"stages": {name: {} for name in LABEL_STAGES}}
        _override(tables, overrides)
        for name, cls in LABEL_STAGES.items():
            stages[name] = _built(cls, {**tables["stages"][name], **own.get(name, {}), **fixed}, where=name)
    if getattr(stages["make_cams"], "method", "") == "lpcam":
        raise ValueError(
            "make_cams.method = 'lpcam' reads the prototypes that a recipe's make_prototypes computed, which wsss "
            "label-folder does not have; choose another method, or name another recipe"
        )
    if walks and getattr(stages["make_scores"], "second_affinity", False):
        raise ValueError(
            "make_scores.second_affinity = true walks along two affinity networks, but wsss label-folder has only that "
            "of --affinity; set it to false, without inputs.second_affinity, or name another recipe"
        )
    return stages


def _of_recipe(path: Path, overrides: Sequence[str]) -> dict[str, Stage]:
    """The recipe's make_pseudo_labels and the stages before it: those whose results it reads, in order.

    Raises ValueError if there are several label instances and none has the plain name, or if a stage is missing.
    """
    recipe, _ = dry_recipe(path, list(overrides))
    wanted, *behind = reversed(LABEL_STAGES)
    makers = [one for one in recipe.instances if one.stage.kind == wanted]
    chosen = [one for one in makers if one.name == wanted] or makers
    if len(chosen) != 1:
        several = f"several ({', '.join(one.name for one in makers)}) and none is called {wanted}" if makers else "none"
        raise ValueError(f"--recipe {path}: of {wanted} it has {several}; name a recipe with one chain of labels")
    found = {wanted: chosen[0].stage}
    reader = chosen[0]
    for kind in behind:
        read = [one for one in reader.inputs.values() if one.stage.kind == kind]
        if not read:
            raise ValueError(
                f"--recipe {path}: {reader.name} reads no {kind}; name a recipe that makes pseudo labels by "
                f"{', '.join(LABEL_STAGES)}"
            )
        reader = read[0]
        found[kind] = reader.stage
    return {kind: found[kind] for kind in LABEL_STAGES}


def _built(cls: type[Any], values: Mapping[str, Any], *, where: str) -> Any:
    known = [field.name for field in fields(cls)]
    for name in values:
        if name not in known:
            raise RecipeError(f"{where}.{name}: " + unknown_setting(name, known))
    try:
        return cls(**values)
    except ValidationError as error:
        raise RecipeError(first_complaint(error, where)) from None


def _require_same_classes(models: Mapping[str, ModelFile]) -> None:
    first, *others = models.values()
    for other in others:
        if other.metadata.classes != first.metadata.classes:
            raise ValueError(
                f"{first.path} has {len(first.metadata.classes)} classes and {other.path} has "
                f"{len(other.metadata.classes)}, and they are not the same; give networks of one data set"
            )


def _about(models: Mapping[str, ModelFile]) -> dict[str, dict[str, Any]]:
    return {
        name: {"kind": one.metadata.kind, "fingerprint": one.metadata.fingerprint, "sha256": one.digest()}
        for name, one in models.items()
    }


def _settings(stages: Mapping[str, Stage]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, stage in stages.items() for key, value in hashed_values(stage).items()}


def _run(
    command: str,
    given: Folders,
    chain: FolderChain,
    models: Mapping[str, ModelFile],
    pictures: Sequence[str],
    found: PictureFolder | None,
) -> FolderSummary:
    """`found`: what else was seen in the folder, if the command works on all of it."""
    fingerprint = with_state_of_files(chain.masks.fingerprint, given.root, pictures)
    before = kept_summary(given.out)
    if before is not None and is_finished(given.out, fingerprint=fingerprint):
        summary = FolderSummary(**before)
        if given.overlays:
            draw_overlays(given.out, given.root)
    else:
        runtime = given.make_runtime(chain.runtime)
        try:
            chain.run(runtime, Reporter(given.console))
        finally:
            runtime.close()
        masks, unreadable, left_out = write_results(
            chain,
            given.out,
            taxonomy=next(iter(models.values())).taxonomy,
            overlays=given.overlays,
            names={key_of_picture(picture): picture for picture in pictures},
            refused=found.refused if found else {},
        )
        summary = FolderSummary(
            command=command,
            models=_about(models),
            settings=_settings({instance.name: instance.stage for instance in chain.instances[1:]}),
            fingerprint=fingerprint,
            masks=masks,
            unreadable=unreadable,
            left_out=left_out,
            others=found.others if found else 0,
        )
    if given.coco:
        write_coco(given.out, taxonomy=next(iter(models.values())).taxonomy)
    finish(given.out, summary)
    return summary


def summary_lines(summary: FolderSummary, out: Path) -> Iterator[str]:
    """What the commands print at the end."""
    yield f"{counted(summary.masks, 'mask')} in {out / MASKS}"
    where = f"see the column error of {out / PICTURES}"
    if summary.unreadable:
        yield f"{counted(summary.unreadable, 'picture')} could not be read; {where}"
    if summary.left_out:
        yield f"{counted(summary.left_out, 'picture')} left out by the settings; {where}"
    if summary.others:
        yield f"{counted(summary.others, 'file')} passed over: by its extension not a picture"
