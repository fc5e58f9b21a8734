"""Every kind of stage, by name: the subcommands, TOML tables and sweepable names follow from this list."""

from __future__ import annotations

from wsss.contract.stage import Stage
from wsss.stages.build_shards import BuildShards
from wsss.stages.evaluate import Evaluate
from wsss.stages.make_cams import MakeCams
from wsss.stages.make_instance_labels import MakeInstanceLabels
from wsss.stages.make_pseudo_labels import MakePseudoLabels
from wsss.stages.make_scores import MakeScores
from wsss.stages.make_seeds import MakeSeeds
from wsss.stages.make_segmenter_maps import MakeSegmenterMaps
from wsss.stages.predict import Predict
from wsss.stages.submit import Submit
from wsss.stages.train_affinity import TrainAffinity
from wsss.stages.train_ancillary import TrainAncillary
from wsss.stages.train_classifier import TrainClassifier
from wsss.stages.train_correction import TrainCorrection
from wsss.stages.train_segmenter import TrainSegmenter

_KINDS: tuple[type[Stage], ...] = (
    BuildShards,
    TrainClassifier,
    MakeCams,
    MakeSeeds,
    TrainAffinity,
    MakeScores,
    MakePseudoLabels,
    MakeInstanceLabels,
    TrainAncillary,
    TrainCorrection,
    TrainSegmenter,
    MakeSegmenterMaps,
    Predict,
    Evaluate,
    Submit,
)
STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in _KINDS}
