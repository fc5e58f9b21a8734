"""Imports point one way: shards <- wsss <- cluster <- tuning, and inside wsss from operations to the command line."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.architecture.sources import FOLDERS, ROOT, imported, trees
from wsss.stages.registry import STAGES

COMMAND_LINE = "wsss/__main__.py"
"""The only file that may see all four folders."""

ALLOWED = {
    "webdataset": ("shards/",),
    # contact_sheet.py, pictures.py and preview.py draw; encoding and decoding of images is only in shards/images.py.
    # wsss/use/loaded.py only names the type of an image that it is given.
    "PIL": (
        *("shards/", "wsss/report/", "wsss/pictures/sheets.py", "tuning/comparison_pictures.py"),
        "wsss/use/loaded.py",
    ),
    "cv2": ("wsss/data/images.py",),  # only a table lookup; it decodes nothing
    "imageio": (),
    "pycocotools": ("shards/sources/coco_masks.py",),  # C code: its input is checked there
    "skimage": (),
    # What the sweep and the comparison count goes to wsss.ops as tensors; label maps of scores are made by wsss.data.
    "torch": ("wsss/", "cluster/", "tuning/sweep_result.py", "tuning/paired_comparison.py", "tuning/label_maps.py"),
    "numba": ("wsss/ops/compiled.py",),
    "timm": ("wsss/models/",),
    "segmentation_models_pytorch": ("wsss/models/",),
    "albumentations": ("wsss/data/augment.py",),
    "ray": ("cluster/", "tuning/"),
    "deepspeed": (
        "cluster/training/engine.py",
        "cluster/training/rank_process.py",
        "cluster/training/deepspeed_config.py",
        "cluster/training/gathered_state.py",
    ),
    "mlflow": ("cluster/tracking/", "tuning/tracked_runs.py"),
}
"""Third party -> the files and folders that may import it."""

ORDER = (
    ("ops", "losses", "contract", "argument_parser", "pictures"),
    ("models", "data"),
    ("tasks",),
    ("stages",),
    ("pipeline",),
    ("plan", "report", "use", "cluster_arguments", "comparing_arguments", "use_arguments"),
    ("arguments",),
    ("completion",),
    ("__main__",),
)
"""Parts of wsss: a part imports only from its own row and from rows above it."""
CLUSTER_ORDER = (
    ("session", "failures", "tracking", "slurm"),
    ("training", "shard_work"),
    ("actors", "ranks", "check"),
    ("nodes", "local", "ray_runtime", "doctor"),
    ("command",),
)
"""Parts of cluster, in the same way."""
ORDERS = {"wsss": ORDER, "cluster": CLUSTER_ORDER}
RANK = {f"{folder}.{part}": rank for folder, order in ORDERS.items() for rank, row in enumerate(order) for part in row}


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", [path for path in trees() if path != COMMAND_LINE])
def test_folders_import_only_what_stands_to_their_left(path: str) -> None:
    allowed = FOLDERS[: FOLDERS.index(path.split("/")[0]) + 1]
    ours = {name for name in imported(trees()[path]) if top(name) in (*FOLDERS, "tests")}
    assert not [name for name in ours if top(name) not in allowed]


@pytest.mark.parametrize("path", list(trees()))
def test_third_parties_stay_in_their_places(path: str) -> None:
    third = {top(name) for name in imported(trees()[path])}
    wrong = [name for name in third if name in ALLOWED and not path.startswith(ALLOWED[name] or ("nowhere",))]
    assert not wrong, f"{path} imports {wrong}; allowed in {[ALLOWED[name] for name in wrong]}"


@pytest.mark.parametrize("path", [path for path in trees() if path.startswith(("wsss/ops/", "wsss/losses/"))])
def test_ops_and_losses_import_torch_alone(path: str) -> None:
    names = {name for name in imported(trees()[path]) if top(name) not in sys.stdlib_module_names}
    allowed = {"torch"}
    if path.startswith("wsss/ops/compiled"):
        allowed = {"numba", "numpy"}
    elif path == "wsss/ops/dense_crf.py":
        allowed = {"torch", "numpy"}  # it passes arrays to compiled loops
    assert not [n for n in names if top(n) not in allowed and not n.startswith(("wsss.ops", "wsss.losses"))]


def part_of(path: str) -> str:
    """wsss/stages/x.py -> wsss.stages"""
    folder, part = path.split("/")[:2]
    return f"{folder}.{part.removesuffix('.py')}"


def ordered() -> list[str]:
    return [path for path in trees() if path.split("/")[0] in ORDERS and path.split("/")[1] != "__init__.py"]


def test_no_part_is_without_a_rank() -> None:
    assert {part_of(path) for path in ordered()} == set(RANK), "a new part needs its row, and a removed one leaves it"


@pytest.mark.parametrize("path", ordered())
def test_order_inside_a_folder(path: str) -> None:
    own, folder = RANK[part_of(path)], path.split("/")[0]
    names = {name for name in imported(trees()[path]) if name.startswith(f"{folder}.")}
    read = {".".join(name.split(".")[:2]) for name in names}
    later = sorted(part for part in read if RANK[part] > own)
    assert not later, f"{path} imports {later}, which are in later rows"


@pytest.mark.parametrize("path", [path for path in trees() if path.startswith("cluster/")])
def test_the_cluster_sees_the_contract_and_no_stage(path: str) -> None:
    """Imports of types count: a runtime must not even know the name of a concrete stage."""
    seen = {name for name in imported(trees()[path]) if name.startswith("wsss.")}
    assert not [name for name in seen if not name.startswith(("wsss.contract", "wsss.tasks.task"))]


@pytest.mark.parametrize("path", [path for path in trees() if path.startswith("wsss/contract/")])
def test_the_contract_knows_nothing_of_the_rest(path: str) -> None:
    seen = {name for name in imported(trees()[path]) if name.startswith("wsss.")}
    assert not [name for name in seen if not name.startswith("wsss.contract")]


@pytest.mark.parametrize("path", [path for path in trees() if path.startswith("wsss/stages/")])
def test_stages_do_not_import_each_other(path: str) -> None:
    """Only the registry names a stage; code that two stages share is in a subfolder."""
    stages = {f"wsss.stages.{kind}" for kind in STAGES}
    assert not imported(trees()[path]) & stages


@pytest.mark.parametrize("path", [path for path in trees() if path.startswith("wsss/plan/")])
def test_the_plan_knows_no_stage(path: str) -> None:
    """A stage states its own cost: a plan of a new stage needs no change in wsss/plan."""
    assert not [name for name in imported(trees()[path]) if name.startswith("wsss.stages")]
    words = {node.value for node in ast.walk(trees()[path]) if isinstance(node, ast.Constant)}
    assert not words & set(STAGES)


def test_no_module_imports_in_a_circle() -> None:
    """Imports inside functions and for types count as well."""
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees()}
    reads = {name: (imported(trees()[path]) & modules.keys()) - {name} for name, path in modules.items()}
    # `from wsss.stages import x` names the package too; a package with only a docstring imports nothing.
    done: set[str] = set()
    while ready := {name for name in reads if name not in done and reads[name] <= done}:
        done |= ready
    assert not sorted(set(reads) - done), "these import each other in a circle, or read modules that do"


def test_a_recipe_is_read_without_torch() -> None:
    """Importing every stage loads no package for computing, drawing or talking to a server."""
    heavy = ["torch", "ray", "mlflow", "deepspeed", "timm", "albumentations", "webdataset"]
    heavy += ["matplotlib", "cv2", "scipy", "pandas", "rich", "boto3"]
    code = (
        "import sys; from wsss.stages.registry import STAGES; import wsss.pipeline.recipe;"
        f"[STAGES[kind] for kind in STAGES]; sys.exit(str(sorted(set({heavy}) & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode in (0, 1) and done.stderr.strip() == "", done.stderr
