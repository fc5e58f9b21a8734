"""Which classes have maps in what an instance is made from: not those that every classifier dropped."""

from __future__ import annotations

from wsss.contract.stage import Instance
from wsss.stages.classifier.cam_settings import CamSettings
from wsss.stages.classifier.training import ClassifierTraining


def mapped_classes(instance: Instance) -> frozenset[int]:
    """Ids of the classes that a classifier behind any `make_cams` of this instance's inputs has learned; all classes of
    the data set if there is no `make_cams` behind it, as behind a segmenter that is trained on masks."""
    found = _learned_behind(instance, {})
    return frozenset(range(1, len(instance.taxonomy) + 1)) if found is None else found


def _learned_behind(instance: Instance, known: dict[int, frozenset[int] | None]) -> frozenset[int] | None:
    if id(instance) not in known:
        behind = [_learned_behind(one, known) for one in instance.inputs.values()]
        if isinstance(instance.stage, CamSettings):
            behind += [
                frozenset(one.stage.learned(one))
                for one in instance.inputs.values()
                if isinstance(one.stage, ClassifierTraining)
            ]
        found = [one for one in behind if one is not None]
        known[id(instance)] = frozenset().union(*found) if found else None
    return known[id(instance)]
