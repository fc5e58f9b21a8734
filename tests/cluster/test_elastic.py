"""Trainings whose number of ranks changes: from any ZeRO stage, everything that a checkpoint holds is the same.

What cannot be equal are sums over examples, whose order depends on the ranks.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cluster.training.batches import RankBatches
from cluster.training.checkpoints import TrainingState, state_path
from cluster.training.optimizer import lr_multiplier
from tests.cluster.forked_ranks import errors, train_forked
from tests.cluster.tiny import TinyFit, TinySet
from wsss.contract.fit import WEIGHTS
from wsss.contract.stage import Outcome

pytestmark = pytest.mark.slow

BATCH, EXAMPLES, EPOCHS = 6, 20, 2
STEPS = 8
"""Batches of 6, 6, 6 and 2: uneven on 4 ranks, and a rank of three has no example in the last."""
SETTINGS: dict[str, Any] = {
    "batch_size": BATCH,
    "num_examples": EXAMPLES,
    "num_epochs": EPOCHS,
    "checkpoint_every": 1,
    "learning_rate": 0.01,
    "watched": True,
}
NOISE = ("network.0.bias", "network.1.running_mean")
"""The norm after this bias removes it: its gradient is rounding noise, which Adam makes as large as any other."""
CHANGES = ((4, 3), (2, 6), (3, 0))
"""Ranks, and the step after which one of them is killed."""


def finished(path: Path, stage: TinyFit) -> Outcome:
    outcome = train_forked(path, stage)
    assert outcome is not None, errors(path)
    return outcome


def changing(path: Path, changes: tuple[tuple[int, int], ...] = CHANGES, **settings: Any) -> Outcome:
    """A training that is killed, and resumed by another number of ranks."""
    for world_size, last in changes[:-1]:
        stage = TinyFit(**{**SETTINGS, **settings}, world_size=world_size, die_after=last)
        assert train_forked(path, stage) is None
        assert json.loads((path / "checkpoints" / "latest.json").read_bytes())["step"] == last, errors(path)
        saved = path / f"saved-{last}.safetensors"
        saved.write_bytes(state_path(path / "checkpoints", TrainingState(step=last)).read_bytes())
    return finished(path, TinyFit(**{**SETTINGS, **settings}, world_size=changes[-1][0]))


def losses(outcome: Outcome) -> list[float]:
    return [float(row["loss"]) for row in outcome.tables["history"]]  # type: ignore[arg-type]


def final_state(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(state_path(path / "checkpoints", TrainingState(step=STEPS)))
    return found


def assert_restored_as_saved(path: Path, stage: TinyFit) -> None:
    """After each change weights, buffers and moments are what was saved, bit by bit; schedule and order are right."""
    for (_, last), (ranks, _) in pairwise(CHANGES):
        saved, restored = (
            load_file(path / f"saved-{last}.safetensors"),
            load_file(path / f"restored-{last}-{ranks}.safetensors"),
        )
        assert saved.keys() == restored.keys()
        for name, value in saved.items():
            assert (
                torch.equal(restored[name].view(torch.uint8), value.view(torch.uint8))
                if value.ndim
                else (restored[name] == value)
            ), name
        noted = json.loads((path / f"restored-{last}-{ranks}.json").read_bytes())
        rate = stage.learning_rate * lr_multiplier(stage, last, epoch_ends=[4, 8])
        assert noted["rates"] == pytest.approx([rate] * len(noted["rates"]), rel=1e-12)
        epoch, batch = divmod(last, 4)
        order = TinySet(stage, path).order(epoch)[batch * BATCH : (batch + 1) * BATCH]
        assert [key for of_rank in noted["keys"] for key in of_rank] == [f"k{index}" for index in order]
        assert max(map(len, noted["keys"])) - min(map(len, noted["keys"])) <= 1


def assert_trained_alike(path: Path, whole: Path, *, tolerance: float, share: float = 0.0) -> None:
    """`share`: of a tensor's elements, how many may differ more: Adam divides a gradient that is near 0 by its size."""
    found, expected = final_state(path), final_state(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith(NOISE):
            continue
        far = ~torch.isclose(found[name], value, rtol=tolerance, atol=tolerance)
        assert float(far.float().mean()) <= share, f"{name}: {int(far.sum())} of {far.numel()} elements"


OPTIMIZERS = {"adamw": ("exp_avg", "exp_avg_sq", "step"), "sgd": ("momentum_buffer",), "adam": ("exp_avg",)}


@pytest.mark.parametrize(
    ("zero_stage", "optimizer"),
    [
        (2, "adamw"),
        *(pytest.param(*case, marks=pytest.mark.extended) for case in ((0, "adamw"), (1, "adam"), (3, "adamw"))),
        *(pytest.param(stage, "sgd", marks=pytest.mark.extended) for stage in range(4)),
    ],
)
def test_ranks_change_twice(zero_stage: int, optimizer: str, tmp_path: Path) -> None:
    settings = {"zero_stage": zero_stage, "optimizer": optimizer}
    if zero_stage == 3:
        settings["wide"] = True  # small parameters are not partitioned
    if optimizer == "sgd":
        settings["learning_rate"] = 1e-4 if zero_stage == 3 else 0.05
    whole = finished(tmp_path / "whole", TinyFit(**{**SETTINGS, **settings}))
    outcome = changing(tmp_path / "changed", **settings)
    assert_restored_as_saved(tmp_path / "changed", TinyFit(**{**SETTINGS, **settings}))
    keys = {name.split("/")[1] for name in final_state(tmp_path / "changed") if name.startswith("optimizer/")}
    assert keys >= set(OPTIMIZERS[optimizer])
    assert losses(outcome) == pytest.approx(losses(whole), rel=1e-5)
    alike = {"tolerance": 1e-4, "share": 1e-4} if zero_stage == 3 else {"tolerance": 2e-5}
    assert_trained_alike(tmp_path / "changed", tmp_path / "whole", **alike)
    assert outcome.tables["ranks"] == [
        {"first_step": 1, "last_step": 3, "world_size": 4},
        {"first_step": 4, "last_step": 6, "world_size": 2},
        {"first_step": 7, "last_step": 8, "world_size": 3},
    ]
    (note,) = outcome.notes
    assert note.endswith("steps 1 to 3 by 4, steps 4 to 6 by 2, steps 7 to 8 by 3")


@pytest.mark.extended
def test_a_training_that_forgets_its_moments_is_noticed(tmp_path: Path) -> None:
    """The control of the test above."""
    settings = {"zero_stage": 2, "optimizer": "adamw"}
    finished(tmp_path / "whole", TinyFit(**{**SETTINGS, **settings}))
    changing(tmp_path / "changed", **settings, forget=True)
    with pytest.raises(AssertionError):
        assert_restored_as_saved(tmp_path / "changed", TinyFit(**{**SETTINGS, **settings}))
    with pytest.raises(AssertionError, match=r"optimizer/exp_avg|module/"):
        assert_trained_alike(tmp_path / "changed", tmp_path / "whole", tolerance=1e-3)


@pytest.mark.extended
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_ranks_change_with_bf16(zero_stage: int, tmp_path: Path) -> None:
    """What is saved is the same, in fp32; gradients of a rank's examples are rounded to bf16, so losses differ more."""
    settings = {"zero_stage": zero_stage, "optimizer": "adamw", "precision": "bf16"}
    whole = finished(tmp_path / "whole", TinyFit(**{**SETTINGS, **settings}))
    outcome = changing(tmp_path / "changed", **settings)
    assert_restored_as_saved(tmp_path / "changed", TinyFit(**{**SETTINGS, **settings}))
    assert losses(outcome) == pytest.approx(losses(whole), rel=5e-3)


@pytest.mark.parametrize(
    ("zero_stage", "accumulation"),
    [(0, 1), *(pytest.param(*case, marks=pytest.mark.extended) for case in ((0, 3), (1, 2), (2, 2), (3, 2)))],
)
def test_64_examples_on_3_ranks(zero_stage: int, accumulation: int, tmp_path: Path) -> None:
    """A step of plain SGD moves the weights by the gradient of the mean over all 64, not by the mean of the ranks'."""
    settings: dict[str, Any] = {"batch_size": 64, "num_examples": 64, "num_epochs": 1, "learning_rate": 1.0}
    settings |= {"momentum": 0.0, "weight_decay": 0.0, "head_lr_multiplier": 1.0, "poly_power": 0.0}
    settings |= {"frozen": accumulation > 1, "gradient_accumulation_steps": accumulation, "zero_stage": zero_stage}
    one = finished(tmp_path / "one", TinyFit(**{**settings, "gradient_accumulation_steps": 1, "zero_stage": 0}))
    three = finished(tmp_path / "three", TinyFit(**settings, world_size=3))
    assert losses(three) == pytest.approx(losses(one), rel=1e-6)
    ones, threes = load_file(tmp_path / "one" / WEIGHTS), load_file(tmp_path / "three" / WEIGHTS)
    torch.manual_seed(3)
    start = TinyFit(**settings).model(None, pretrained=False).state_dict()  # type: ignore[arg-type]
    moved = 0.0
    for name, value in ones.items():
        moved = max(moved, float((value - start[name]).abs().max()))
        torch.testing.assert_close(threes[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert moved > 1e-2, "weights and running statistics have moved"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


DAMAGE = {
    "half": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        r"is not whole: \d+ of \d+ bytes",
    ),
    "empty": (lambda path: path.write_bytes(b""), "is not whole: 0 of"),
    "flipped": (flip, "is damaged: its SHA-256"),
    "gone": (lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize(
    "damage", ["half", *(pytest.param(n, marks=pytest.mark.extended) for n in ("empty", "flipped", "gone"))]
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken(damage: str, tmp_path: Path) -> None:
    whole, path = finished(tmp_path / "whole", TinyFit(**SETTINGS)), tmp_path / "damaged"
    assert train_forked(path, TinyFit(**SETTINGS, die_after=5)) is None
    folder = path / "checkpoints"
    steps = sorted(file.name for file in folder.glob("step-*"))
    assert steps == ["step-00000004.safetensors", "step-00000005.safetensors"], "older ones are removed"
    change, text = DAMAGE[damage]
    change(folder / steps[1])
    outcome = finished(path, TinyFit(**SETTINGS))
    assert (path / "restored-4-1.json").exists() and not (path / "restored-5-1.json").exists()
    (note,) = outcome.notes
    assert "step-00000005.safetensors" in note and "resumed from step 4" in note
    assert re.search(text, note)
    assert losses(outcome) == losses(whole)
    assert (path / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_without_a_whole_checkpoint_the_training_begins_again(tmp_path: Path) -> None:
    """Such as one of an earlier version, which DeepSpeed wrote as pickles."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "latest.json").write_text(json.dumps({"tag": "step-00000002", "world_size": 2, "step": 2}))
    outcome = finished(tmp_path, TinyFit(**SETTINGS))
    (note,) = outcome.notes
    assert "latest.json is not readable, or of an earlier version; the training was begun again" in note


def test_a_rank_killed_while_it_saves(tmp_path: Path) -> None:
    stage = TinyFit(**SETTINGS, world_size=2, die_while_saving=5)
    whole, path = finished(tmp_path / "whole", TinyFit(**SETTINGS, world_size=2)), tmp_path / "killed"
    assert train_forked(path, stage) is None
    assert (path / "died").exists() and list((path / "checkpoints").glob(".step-00000005*.tmp"))
    assert json.loads((path / "checkpoints" / "latest.json").read_bytes())["step"] == 4
    outcome = finished(path, replace(stage, world_size=2))
    assert losses(outcome) == losses(whole) and outcome.notes == ()
    assert (path / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert not list((path / "checkpoints").glob("*.tmp")), "the half-written file was removed"


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 7, 64])
def test_a_batch_is_dealt_to_any_number_of_ranks(ranks: int) -> None:
    """Every example once, shares that differ by at most one, and equally many micro-batches on all ranks."""
    for accumulation in [number for number in (1, 2, 4) if ranks * number <= 64]:
        stage = TinyFit(batch_size=64, num_examples=150, num_epochs=1, gradient_accumulation_steps=accumulation)
        dealt = [list(batches(stage, rank, ranks).after(0)) for rank in range(ranks)]
        order = [f"k{index}" for index in TinySet(stage, Path()).order(0)]
        for step, size in enumerate((64, 64, 22)):
            of_ranks = [[part for part in rank[step] if part.present] for rank in dealt]
            keys = [[key for part in parts for key in part.batch["key"]] for parts in of_ranks]
            assert [key for of_rank in keys for key in of_rank] == order[64 * step : 64 * step + size]
            assert max(map(len, keys)) - min(map(len, keys)) <= 1
            assert len({len(rank[step]) for rank in dealt}) == 1 and len(dealt[0][step]) <= accumulation
            if size == 64:
                whole = all(part.present for rank in dealt for part in rank[step])
                assert whole or not batches(replace(stage, batch_size=64), 0, ranks).are_full


def batches(stage: TinyFit, rank: int, ranks: int) -> RankBatches:
    return RankBatches(TinySet(stage, Path()), stage, rank=rank, world_size=ranks, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("batch_size", "ranks", "accumulation", "full"),
    [(64, 3, 1, True), (64, 3, 2, True), (5, 2, 3, False), (4, 4, 1, True), (9, 4, 2, False), (8, 2, 4, True)],
)
def test_every_rank_has_examples_in_every_micro_batch(
    batch_size: int, ranks: int, accumulation: int, full: bool
) -> None:
    """5 examples on 2 ranks in 3 parts: 1 + 1 + 1 and 1 + 1; on GPUs torch's norm would count the dummy third."""
    stage = TinyFit(
        batch_size=batch_size, num_examples=batch_size, num_epochs=1, gradient_accumulation_steps=accumulation
    )
    dealt = [part for rank in range(ranks) for step in batches(stage, rank, ranks).after(0) for part in step]
    assert all(part.present for part in dealt) == batches(stage, 0, ranks).are_full == full


@pytest.mark.parametrize("synchronise", [False, True])
def test_norms_that_depend_on_the_ranks_are_named(synchronise: bool, tmp_path: Path) -> None:
    settings = {**SETTINGS, "watched": False, "synchronise": synchronise}
    assert train_forked(tmp_path, TinyFit(**settings, world_size=2, die_after=3)) is None
    outcome = finished(tmp_path, TinyFit(**settings))
    assert any("norms are not synchronised" in note for note in outcome.notes) == (not synchronise)
    assert "steps 1 to 3 by 2, steps 4 to 8 by 1" in outcome.notes[-1]
