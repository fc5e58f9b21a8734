"""Results of a sweep: its trials and the two-fold choice between them, as a table and as files.

Shape letters: `C` classes with background.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shards.files import write_bytes
from tuning.sweep_settings import MEAN_IOU
from wsss.ops.confusion import Scores
from wsss.report.tables import Cell, Column, Shown, Table, markdown, percent, table_of
from wsss.stages.evaluation.counts import FOLDS, confusions_at, counts_path
from wsss.stages.evaluation.label_free import ThresholdScore


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that was tried."""

    number: int
    values: Mapping[str, Any]
    """Dotted setting -> value; name of cases -> the case."""
    state: str
    reason: str = ""
    executed: tuple[str, ...] = ()
    """Stage instances that this trial ran."""
    reused: tuple[str, ...] = ()
    """Stage instances whose results were found."""
    seconds: float = 0.0
    """Seconds of the stages that depend on the searched settings, as recorded when they were executed."""
    folds: tuple[Tensor, ...] = ()
    """Confusion matrix of every fold, i64[C, C]; empty if the trial has no result."""

    @property
    def fold_iou(self) -> tuple[float, ...]:
        """Mean IoU of every fold by itself."""
        return tuple(Scores.from_confusion(fold).mean_iou for fold in self.folds)

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU over all images."""
        return mean_iou(self.folds) if self.folds else None


def mean_iou(folds: Sequence[Tensor]) -> float:
    """Mean IoU over all images, from the confusion matrix i64[C, C] of every fold."""
    return Scores.from_confusion(torch.stack(list(folds)).sum(0)).mean_iou


@dataclass(frozen=True, kw_only=True)
class TwoFoldChoice:
    """A setting chosen on images other than those it is scored on."""

    best: Trial
    """Best over all images: the one to use."""
    chosen: tuple[Trial, ...]
    """Best on each fold."""
    mean_iou: float
    """Mean IoU of the summed confusion matrices, each fold with the setting that was chosen on the other fold."""


def choose(trials: Sequence[Trial]) -> TwoFoldChoice | None:
    """Choose on each fold, score on the other one, add the confusion matrices; None without a finished trial.

    If two trials have equal mean IoU, the earlier one is chosen. Fold matrices are i64[C, C].

    Source: two-fold cross-validation. Differs: the search itself used the scores of all images, so the settings that it
    proposed depend on both folds; only the choice among them is independent of the fold that it is scored on.
    """
    finished = [trial for trial in trials if trial.folds]
    if not finished:
        return None
    chosen = tuple(max(finished, key=lambda trial, fold=fold: trial.fold_iou[fold]) for fold in range(FOLDS))  # type: ignore[misc]
    crossed = sum((chosen[1 - fold].folds[fold] for fold in range(FOLDS)), torch.zeros_like(finished[0].folds[0]))
    best = max(finished, key=lambda trial: trial.mean_iou or 0.0)
    return TwoFoldChoice(best=best, chosen=chosen, mean_iou=Scores.from_confusion(crossed).mean_iou)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with a result that no other one equals or beats in both mean IoU and seconds (the Pareto front).

    Of trials that are equal in both, the earliest.
    """
    found: list[Trial] = []
    finished = [trial for trial in trials if trial.mean_iou is not None]
    for trial in sorted(finished, key=lambda one: (-(one.mean_iou or 0.0), one.seconds, one.number)):
        if not found or trial.seconds < found[-1].seconds:
            found.append(trial)
    return found


def read_folds(folder: Path, *, split: str, threshold: float | None = None) -> tuple[Tensor, ...]:
    """The confusion matrices that an evaluate instance wrote, one per fold, i64[C, C].

    `threshold`: for score maps, whose counts give the matrices at each of the thresholds i/256.
    """
    if threshold is not None:
        return confusions_at(counts_path(folder, split), threshold=threshold)
    return tuple(_read_matrix(folder / f"confusion.{split}.fold{fold}.csv") for fold in range(FOLDS))


def _read_matrix(path: Path) -> Tensor:
    rows = [[int(cell) for cell in line.split(",")] for line in path.read_text().splitlines()]
    return torch.tensor(rows, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """The results of a whole sweep, as text for people and JSON for programs."""

    name: str
    recipe: str
    metric: str
    split: str
    trials: tuple[Trial, ...]
    base_executed: tuple[str, ...]
    """Stage instances that were run once, for all trials."""
    base_reused: tuple[str, ...]
    choice: TwoFoldChoice | None
    best_overrides: tuple[str, ...]
    labels: str = ""
    """The make_pseudo_labels instance whose threshold was searched without making its labels; none if empty."""
    grid: bool = False
    """True if every combination was tried: rows are in the order of the grid, not best first."""
    objectives: tuple[str, ...] = (MEAN_IOU,)
    """What the search looked for."""
    interval: tuple[float, float] | None = None
    """The 95 % interval of the two-fold mean IoU over images."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """Setting, or name of cases -> its share of the differences between trials, largest first."""
    label_free: tuple[ThresholdScore, ...] = ()
    """Of a sweep that reads thresholds off counts: thresholds chosen without masks, for the best trial's maps."""

    @property
    def executed(self) -> int:
        """Number of stage instances executed, including those before the trials."""
        return len(self.base_executed) + sum(len(trial.executed) for trial in self.trials)

    @property
    def asked(self) -> int:
        """Number of stage instances that the trials would have executed without reuse."""
        return sum(len(trial.executed) + len(trial.reused) for trial in self.trials)

    @property
    def best_command(self) -> str:
        """The best setting as arguments of the command line."""
        return " ".join(f"--set {shlex.quote(one)}" for one in self.best_overrides)

    def sentences(self) -> list[str]:
        """The sentences under the table."""
        lines = [
            f"stages: {self.executed} executed, {len(self.base_executed)} of them once before the trials; "
            f"without reuse the {len(self.trials)} trials would have executed {self.asked}"
        ]
        if self.labels:
            lines.append(
                f"no labels were made: trials read the counts of {self.metric}, which give the result of {self.labels} "
                "without a CRF; with a CRF, another threshold may be the best"
            )
        if without := [trial for trial in self.trials if not trial.folds]:
            listed = ", ".join(f"{trial.number} {trial.state}" for trial in without)
            lines.append(f"trials without a result: {listed}; reason of the first: {without[0].reason}")
        if self.choice is not None:
            a, b = self.choice.chosen
            within = (
                ""
                if self.interval is None
                else ", 95 % interval {:.2f} to {:.2f}".format(*(100 * end for end in self.interval))
            )
            used = "every combination was tried" if self.grid else "the search used both folds"
            lines += [
                f"two-fold mean IoU: {100 * self.choice.mean_iou:.2f}{within} (trial {a.number} was chosen on fold 0 "
                f"and scored on fold 1, trial {b.number} the reverse; {used})",
                f"best: trial {self.choice.best.number}, {self.best_command}",
            ]
        return lines + self._further_sentences()

    def _further_sentences(self) -> list[str]:
        lines = []
        if len(self.objectives) > 1:
            listed = ", ".join(str(trial.number) for trial in front(self.trials))
            lines.append(f"no other trial is at least as good in both mean IoU and seconds: trials {listed}")
        if self.importance:
            listed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in self.importance.items())
            lines.append(f"share of the differences between trials that a setting explains: {listed}")
        if without := [one for one in self.label_free if not one.masks]:
            listed = ", ".join(f"{one.method} by {one.scope} {100 * one.mean_iou:.2f}" for one in without)
            lines.append(f"thresholds chosen without masks, on the best trial's maps: {listed}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        content: dict[str, Any] = {
            "sweep": self.name,
            "recipe": self.recipe,
            "metric": self.metric,
            "split": self.split,
            "executed": self.executed,
            "asked": self.asked,
            "base": {"executed": self.base_executed, "reused": self.base_reused},
            "trials": [_trial_json(trial) for trial in self.trials],
        }
        if self.choice is not None:
            content["importance"] = dict(self.importance)
            content["label_free"] = [asdict(one) for one in self.label_free]
            content["best"] = {"trial": self.choice.best.number, "set": self.best_overrides}
            content["two_fold"] = {
                "mean_iou": self.choice.mean_iou,
                "interval": self.interval,
                "chosen_on_fold": [trial.number for trial in self.choice.chosen],
            }
        return content

    def table(self) -> Table:
        """The trials, best first; for a grid, in its order."""
        settings = list(self.trials[0].values) if self.trials else []
        both, best = len(self.objectives) > 1, {trial.number for trial in front(self.trials)}
        columns = [
            Column("trial", "trial", right=True, role="name"),
            *(Column(name, name, right=True, wraps=True) for name in settings),
            Column("mean IoU %", "mean_iou", right=True),
            *(Column(f"fold {fold} %", f"fold_{fold}", right=True) for fold in range(FOLDS)),
            *([Column("seconds", "seconds", right=True), Column("front", "front")] if both else []),
            Column("executed", "executed", right=True),
            Column("reused", "reused", right=True),
        ]
        order = sorted(self.trials, key=lambda trial: (0.0 if self.grid else -(trial.mean_iou or 0.0), trial.number))
        rows: list[list[Cell]] = []
        for trial in order:
            scores: list[Cell] = [Shown(None, trial.state), *[Shown(None, "–")] * FOLDS]
            if trial.folds:
                scores = [percent(share, digits=2) for share in (trial.mean_iou, *trial.fold_iou)]
            values = [Shown(trial.values[name], json.dumps(trial.values[name])) for name in settings]
            cost: list[Cell] = [Shown(trial.seconds, f"{trial.seconds:.1f}"), trial.number in best] if both else []
            rows.append([trial.number, *values, *scores, *cost, len(trial.executed), len(trial.reused)])
        return table_of(f"{self.name}: {self.metric} on {self.split}", columns, rows)

    def keep_earlier(self, folder: Path) -> Path | None:
        """Rename the files of an earlier sweep with other settings or results, so that `write` replaces none of them.

        Returns the table's new path; None if there is no table, or if all its trials are also in this sweep.
        """
        table, content = folder / "sweep.md", folder / "sweep.json"
        if not table.is_file():
            return None
        try:
            earlier = json.loads(content.read_bytes())
            trials = earlier["trials"]
        except (OSError, ValueError, KeyError, TypeError):
            earlier, trials = {}, None
        now = json.loads(json.dumps(self.as_json()))
        same = all(earlier.get(name) == now[name] for name in ("recipe", "metric", "split"))
        if trials is not None and same and all(_result_of(one) in map(_result_of, now["trials"]) for one in trials):
            return None
        written = f"{datetime.fromtimestamp(table.stat().st_mtime):%Y%m%dT%H%M%S}"
        kept = table.with_name(f"sweep-{written}.md")
        table.rename(kept)
        for other in (content, folder / "best.toml", folder / "importance.png"):
            if other.is_file():
                other.rename(other.with_name(f"{other.stem}-{written}{other.suffix}"))
        return kept

    def write(self, folder: Path, further: Mapping[str, bytes] | None = None) -> dict[str, str]:
        """Write `sweep.md`, `sweep.json` and further files; file name -> path."""
        notes = "".join(f"- {line}\n" for line in self.sentences())
        title = f"# {self.name}\n\n{self.metric} on {self.split}, recipe {self.recipe}"
        text = "\n\n".join([title, markdown(self.table()).rstrip(), notes])
        contents = {"sweep.md": text.encode(), "sweep.json": json.dumps(self.as_json(), indent=1).encode()}
        contents |= further or {}
        for name, content in contents.items():
            write_bytes(folder / name, content)
        return {name: str(folder / name) for name in contents}


def _result_of(trial: Mapping[str, Any]) -> tuple[object, object]:
    """Two trials of `sweep.json` are the same if these are equal: settings and mean IoU."""
    return trial["values"], trial["mean_iou"]


def _trial_json(trial: Trial) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(trial).items() if name != "folds"}
    return plain | {"mean_iou": trial.mean_iou, "fold_iou": trial.fold_iou}
