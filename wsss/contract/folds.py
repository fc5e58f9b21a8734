"""Cross-fitting: a training with `folds` = F is F trainings, each without one fold of the training shards; a stage that
reads its networks uses, for every shard, the one that has not learned the shard.

The networks fill slots with numbered names: `classifier`, `classifier_fold2`, … A stage sees one of them, in the slot
that it declares (`for_shard`), so no stage knows about folds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from shards.folds import TRAIN, Fold, fold_of, fold_of_number
from shards.layer import ShardError, split_of
from shards.records import Missing, Record
from wsss.contract.fit import Fit
from wsss.contract.shard_numbers import most_shards
from wsss.contract.stage import Instance, Map, ShardWorker

_NOT_BY_CHANCE = 10
"""Images of a class that are hardly all in one of two folds unless the list is sorted: one time in 500."""


def name_of_fold(name: str, fold: int) -> str:
    """Name of the instance that is trained without a fold."""
    return f"{name}_fold{fold}"


def base_name(name: str, stage: object) -> str:
    """The name that a recipe gives to the trainings of all folds together."""
    return name.removesuffix(f"_fold{stage.fold}") if isinstance(stage, Fit) and stage.folds > 1 else name


def slots_of_folds(slot: str, networks: Sequence[Instance]) -> dict[str, Instance]:
    """Slot -> network, for the networks of all folds in order."""
    return {slot if fold == 1 else name_of_fold(slot, fold): one for fold, one in enumerate(networks, start=1)}


def num_folds(instance: Instance, slot: str) -> int:
    """Number of networks that fill a slot: more than one if they are those of the folds of a cross-fitting."""
    upstream = instance.inputs.get(slot)
    of_folds = upstream is not None and isinstance(upstream.stage, Fit) and name_of_fold(slot, 2) in instance.inputs
    return upstream.stage.folds if of_folds else 1  # type: ignore[union-attr]


def crossed_slots(instance: Instance) -> dict[str, int]:
    """Slot -> number of folds, for the slots that hold the networks of a cross-fitting."""
    found = {slot: num_folds(instance, slot) for slot in instance.stage.used_slots()}
    return {slot: number for slot, number in found.items() if number > 1}


def for_shard(instance: Instance, shard: str) -> Instance:
    """The instance as its stage sees it at work on a shard: each slot holds the network that has not learned the shard.

    Shards of splits other than train are divided in the same way: no network has learned them.
    """
    return _with_folds(instance, folds_of(instance, shard))


def folds_of(instance: Instance, shard: str) -> dict[str, int]:
    """Slot -> fold of the network that `for_shard` puts there, for the slots that hold those of a cross-fitting."""
    return {slot: fold_of(shard, num_folds=number) for slot, number in crossed_slots(instance).items()}


def _with_folds(instance: Instance, folds: Mapping[str, int]) -> Instance:
    if not folds:
        return instance
    inputs = {slot: up for slot, up in instance.inputs.items() if slot in instance.stage.slots}
    chosen = {slot: instance.inputs[slot if fold == 1 else name_of_fold(slot, fold)] for slot, fold in folds.items()}
    return replace(instance, inputs=inputs | chosen)


def shard_worker(instance: Instance) -> ShardWorker:
    """The worker of a `Map` instance. With cross-fitting: the workers of all folds, each made for its first shard."""
    stage = instance.stage
    assert isinstance(stage, Map)
    if not crossed_slots(instance):
        return stage.worker(instance)
    workers: dict[tuple[int, ...], ShardWorker] = {}

    def work(shard: str) -> Iterator[Record | Missing]:
        folds = folds_of(instance, shard)
        place = tuple(folds.values())
        if place not in workers:
            workers[place] = stage.worker(_with_folds(instance, folds))
        return workers[place](shard)

    return work


def view_of_fold(upstream: Instance, stage: Fit) -> Instance:
    """An input of a training as the training sees it: a layer without the training shards of the fold."""
    if stage.folds == 1 or not isinstance(upstream.stage, Map):
        return upstream
    return replace(upstream, without=Fold(stage.fold, stage.folds))


def check_num_shards(instance: Instance) -> None:
    """Raise ValueError if there are fewer training shards than folds, so that a fold is empty; passes if not known."""
    stage = instance.stage
    if not isinstance(stage, Fit) or stage.folds == 1:
        return
    number, limit = _num_train_shards(instance)
    if number is not None and number < stage.folds:
        raise ValueError(
            f"{base_name(instance.name, stage)}.folds = {stage.folds}, but shards of the split {TRAIN}: {number:.0f}"
            f"{limit and f' ({limit})'}; a fold is made of whole shards, so "
            f"{f'set folds to at most {number:.0f}' if number > 1 else 'remove folds'}, or "
            f"{f'change {limit.split()[0]}' if limit else f'set a smaller shard_size in {instance.samples.name}'}"
        )


def check_class_folds(instance: Instance) -> None:
    """Raise ValueError if all training images of a class are in one fold: the network that labels them has seen none.

    Shards are cut from the list in its order, so this happens where a list is sorted by class. A class of few images
    passes (`class_fold_cautions`) if the training can do without it, and so does everything that is not known.
    """
    stage = instance.stage
    for class_id, number, fold in _in_one_fold(instance):
        if isinstance(stage, Fit) and (stage.needs_every_class or number >= _NOT_BY_CHANCE):
            name = instance.taxonomy.name_of(class_id)
            ways = "shuffle the list of images, or set a smaller shard_size in " + instance.samples.name
            if stage.needs_every_class:
                ways = f"add {name!r} to dropped_classes" + (f", {ways}" if number > 1 else "")
            raise ValueError(
                f"{base_name(instance.name, stage)}.folds = {stage.folds}: all training images of {name!r} ({number}) "
                f"are in fold {fold}, so the network that labels them would have seen none; {ways}"
            )


def cautions_of(instance: Instance) -> list[str]:
    """What a user should know of the instance: its stage's cautions, and those of its folds."""
    return [*instance.stage.cautions(instance), *class_fold_cautions(instance)]


def class_fold_cautions(instance: Instance) -> list[str]:
    """A line for each class of few images that are all in one fold, for that fold's training."""
    stage = instance.stage
    return [
        f"{instance.name}: the {number} training images of {instance.taxonomy.name_of(class_id)!r} are all in fold "
        f"{fold}, so this network labels them without having seen one; a smaller shard_size in "
        f"{instance.samples.name} would divide them"
        for class_id, number, fold in _in_one_fold(instance)
        if isinstance(stage, Fit) and stage.fold == fold and not stage.needs_every_class and number < _NOT_BY_CHANCE
    ]


def _in_one_fold(instance: Instance) -> Iterator[tuple[int, int, int]]:
    """Class, number of its training images and their fold, for each learned class that only one fold has."""
    stage = instance.stage
    if not isinstance(stage, Fit) or stage.folds == 1:
        return
    counts = [Counter[int]() for _ in range(stage.folds)]
    try:
        entries = replace(instance.samples, without=None).layer.manifest_entries(TRAIN)
        for number, entry in enumerate(islice(entries, getattr(stage, "max_shards", None))):
            for classes in entry.entries.metadata("classes"):
                counts[fold_of_number(number, num_folds=stage.folds) - 1].update(classes or ())
    except ShardError:
        return
    total = sum(counts, Counter[int]())
    learned = stage.learned_classes(instance)
    for class_id in sorted(total if learned is None else total.keys() & learned):
        for fold, found in enumerate(counts, start=1):
            if found[class_id] == total[class_id]:
                yield class_id, total[class_id], fold


def _num_train_shards(instance: Instance) -> tuple[float | None, str]:
    """Number of training shards that the instance gets, None if not known, and the setting that limits it, if any."""
    read = [one for one in instance.inputs.values() if not isinstance(one.stage, Fit)]
    found = [most_shards(one) for one in (instance, *read)]
    own = {instance.name: base_name(instance.name, instance.stage)}  # its table's name, which a user can set
    limits = [(most, f"{own.get(name, name)}.max_shards = {most:.0f}") for most, name in found if name]
    number = _num_sample_shards(instance.samples)
    known = limits if number is None else [(number, ""), *limits]
    return min(known, key=lambda limit: limit[0], default=(None, ""))


def _num_sample_shards(samples: Instance) -> int | None:
    """Number of shards of the training split: counted if the samples are done, else as their settings say."""
    try:
        return sum(split_of(shard) == TRAIN for shard in replace(samples, without=None).layer.shards())
    except ShardError:
        images, size = samples.data.expected_data().images.get(TRAIN), getattr(samples.stage, "shard_size", 0)
    return -(-images // size) if images and size else None
