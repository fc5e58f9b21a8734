"""What a driver reports of a training that lost a rank: where it resumes, what is redone, and no old progress."""

from __future__ import annotations

from pathlib import Path

from cluster.ranks.fit_reports import AWAITED_SECONDS, POLL_SECONDS, FitReports
from cluster.training.fit_files import PROGRESS, write_progress, write_restart
from wsss.contract.failure import Failure

POLLS = round(AWAITED_SECONDS / POLL_SECONDS)


def reports_of(path: Path, *, saved: int | None) -> tuple[FitReports, list[tuple[float, float, str]], list[Failure]]:
    shown: list[tuple[float, float, str]] = []
    lost: list[Failure] = []
    made = FitReports(
        path,
        path,
        progress=lambda *line: shown.append(line),
        on_restart=lost.append,
        checkpoint_step=lambda: saved,
        awaited=lambda: "waiting for 1 more node",
    )
    return made, shown, lost


def test_a_lost_rank_says_from_where_the_training_resumes_and_the_old_progress_is_gone(tmp_path: Path) -> None:
    reports, shown, lost = reports_of(tmp_path, saved=40)
    write_progress(tmp_path, step=46, num_steps=100, state="epoch 1 of 2, loss 0.5")
    reports.report()
    assert shown == [(46, 100, "epoch 1 of 2, loss 0.5")]
    write_restart(tmp_path, Failure(message="killed", who="rank 1", step="48", final=False), number=1)
    for _ in range(POLLS):
        reports.report()
    (failure,) = lost
    assert failure.redone == "training resumes from the checkpoint of step 40: steps 41 to 47 are done again"
    assert (failure.steps_redone, failure.awaited) == (7, "all ranks start again")
    assert not (tmp_path / PROGRESS).exists()
    assert shown[1:] == [(40, 100, "waiting for 1 more node")]


def test_before_the_first_checkpoint_all_is_redone(tmp_path: Path) -> None:
    reports, _, lost = reports_of(tmp_path, saved=None)
    write_restart(tmp_path, Failure(message="killed", who="rank 0", step="3", final=False), number=1)
    reports.report()
    assert (
        lost[0].redone
        == "training resumes from the start, since there is no checkpoint yet: steps 1 to 2 are done again"
    )
