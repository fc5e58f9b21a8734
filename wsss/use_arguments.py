"""The arguments of the commands that use trained networks, and of doctor."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from wsss.argument_parser import Parser

AddCommand = Callable[..., Parser]
AddOptions = Callable[..., None]
_MODEL = "weights.safetensors of a training, or the folder that it is in"


def add_use(
    commands: argparse._SubParsersAction[Parser], add: AddCommand, *, add_place: AddOptions, add_overrides: AddOptions
) -> None:
    """Add the commands; `add`, `add_place` and `add_overrides` as in `wsss.arguments`."""
    for command in (_add_predict(commands, add), _add_label(commands, add)):
        add_overrides(command)
        add_place(command, default="local")
    _add_export(commands, add)
    _add_doctor(commands, add)


def _add_predict(commands: argparse._SubParsersAction[Parser], add: AddCommand) -> Parser:
    predict = add(
        commands,
        "predict-folder",
        "segment a folder of pictures",
        "Segment all pictures below a folder with a trained segmenter. Masks are PNGs of\n"
        "class ids, of the size of their pictures turned upright. The network sees each\n"
        "picture at the size that it learned from, or at its own with\n"
        "--set predict.long_side=0. The same command resumes work that was stopped.\n"
        "More settings: wsss show predict.",
        "wsss predict-folder weights.safetensors photos masks --overlay",
    )
    predict.add_argument("model", type=Path, metavar="MODEL", help=_MODEL)
    _add_folders(predict)
    predict.add_argument(
        "--scales", metavar="S,S,...", help="views at these scales of that size, such as 0.5,1,2 (default: 1)"
    )
    predict.add_argument("--flip", action="store_true", help="also views of the mirror image")
    predict.add_argument("--crf", action="store_true", help="refine with the dense CRF")
    return predict


def _add_label(commands: argparse._SubParsersAction[Parser], add: AddCommand) -> Parser:
    label = add(
        commands,
        "label-folder",
        "pseudo labels of pictures with labels",
        "Make masks of pictures whose classes are known, with a trained classifier: maps\n"
        "of these classes, the random walk of an affinity network if one is given, a\n"
        "threshold and the dense CRF. LABELS.csv has the columns image (the path below\n"
        "IN) and labels (class names with | between them). More settings: wsss show\n"
        "make_cams, make_scores, make_pseudo_labels.",
        "wsss label-folder classifier photos labels.csv masks --affinity irnet",
        "wsss label-folder c.safetensors photos labels.csv masks --recipe voc_animals",
    )
    label.add_argument("model", type=Path, metavar="MODEL", help=_MODEL)
    _add_folders(label, labels=True)
    label.add_argument("--affinity", type=Path, metavar="FILE", help="a trained IRNet or AffinityNet, as MODEL")
    label.add_argument(
        "--recipe", type=Path, metavar="RECIPE", help="take settings from its make_cams, make_scores, ..."
    )
    label.add_argument("--split", default="", metavar="SPLIT", help="the rows to read, if there is a column split")
    return label


def _add_folders(command: Parser, *, labels: bool = False) -> None:
    command.add_argument("folder", type=Path, metavar="IN", help="folder of pictures; folders inside it are read too")
    if labels:
        command.add_argument("labels", type=Path, metavar="LABELS", help="CSV file of the pictures' classes")
    command.add_argument("out", type=Path, metavar="OUT", help="folder of the results, made if it does not exist")
    command.add_argument("--overlay", action="store_true", help="also draw the masks over the pictures")
    command.add_argument("--coco", action="store_true", help="also write the masks as COCO annotations, coco.json")


def _add_export(commands: argparse._SubParsersAction[Parser], add: AddCommand) -> None:
    export = add(
        commands,
        "export",
        "a trained segmenter for other programs",
        "Write a trained segmenter as an ONNX file (pictures of any size), as a folder\n"
        "that segmentation_models_pytorch loads, or its weights with metadata.",
        "wsss export weights.safetensors --onnx model.onnx",
        "wsss export weights.safetensors --smp model --pictures photos",
    )
    export.add_argument("model", type=Path, metavar="MODEL", help=_MODEL)
    export.add_argument("--onnx", type=Path, metavar="FILE", help="an ONNX file, compared with torch in onnxruntime")
    export.add_argument("--smp", type=Path, metavar="FOLDER", help="config, weights and model card, for smp")
    export.add_argument("--pictures", type=Path, metavar="FOLDER", help="--smp: pictures on which one layer is fitted")
    export.add_argument("--weights", type=Path, metavar="FILE", help="the weights once more, with metadata")


def _add_doctor(commands: argparse._SubParsersAction[Parser], add: AddCommand) -> None:
    doctor = add(
        commands,
        "doctor",
        "what this machine lacks",
        "Examine packages, devices, disk, ports, the folder of runs, Ray, MLflow and\n"
        "DeepSpeed, and print the commands that mend what is wrong; status 1 if\n"
        "something is.",
        "wsss doctor",
    )
    doctor.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="default: runs")
    doctor.add_argument("--start", action="store_true", help="also start Ray, for some seconds")
    doctor.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
