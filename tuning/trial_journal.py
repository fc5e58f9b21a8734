"""The settings that a sweep has begun to try, in order, in one file: started again, it tries the same ones first.

Results are not here: they are found by their fingerprints. Only a trial that was stopped early has none, so its report
is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from shards.files import write_bytes
from tuning.search_space import Sweep

JOURNAL = "trials.json"


def identity_of(sweep: Sweep) -> str:
    """Equal for two sweeps whose trials may be continued: the same search over the same recipe.

    The number of trials and how many run at the same time may differ: a sweep can be continued with more of them.
    """
    chosen = sweep.settings
    content = {
        "base": [instance.fingerprint for instance in sweep.base.instances],
        "space": {name: repr(one) for name, one in sweep.space.dimensions.items()},
        "search": [chosen.method, chosen.metric, chosen.split, chosen.seed, chosen.to, list(chosen.objectives)],
        "stop": [chosen.stop_by, chosen.grace_epochs, chosen.reduction_factor],
        "labels": sweep.labels,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class TrialJournal:
    """The file `trials.json` of a sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self._path = sweep.folder / JOURNAL
        self._identity = identity_of(sweep)
        self._trials: list[dict[str, Any]] = self._read()

    @property
    def suggestions(self) -> list[dict[str, Any]]:
        """The suggestions of all trials so far, in order."""
        return [dict(trial["suggestion"]) for trial in self._trials]

    def stopped(self) -> dict[str, dict[str, Any]]:
        """`key_of` a suggestion -> the last report of its trial, which was stopped early."""
        return {key_of(one["suggestion"]): one["stopped"] for one in self._trials if one["stopped"] is not None}

    def begun(self, number: int, suggestion: Mapping[str, Any]) -> None:
        """Trial `number`, from 1, begins with this suggestion."""
        while len(self._trials) < number:
            self._trials.append({"suggestion": {}, "stopped": None})
        if self._trials[number - 1]["suggestion"] != suggestion:
            self._trials[number - 1] = {"suggestion": dict(suggestion), "stopped": None}
            self._write()

    def stopped_early(self, number: int, report: Mapping[str, Any]) -> None:
        """Trial `number` was stopped before its end; this was its last report."""
        self._trials[number - 1]["stopped"] = dict(report)
        self._write()

    def _write(self) -> None:
        content = {"identity": self._identity, "trials": self._trials}
        write_bytes(self._path, json.dumps(content, indent=1).encode())

    def _read(self) -> list[dict[str, Any]]:
        """The trials of an earlier start of the same sweep; those up to the first one that is not whole."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["identity"] != self._identity:
                return []
            trials = [{"suggestion": dict(one["suggestion"]), "stopped": one["stopped"]} for one in content["trials"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        gap = next((place for place, one in enumerate(trials) if not one["suggestion"]), len(trials))
        return trials[:gap]


def key_of(suggestion: Mapping[str, Any]) -> str:
    """Equal for equal suggestions."""
    return json.dumps(suggestion, sort_keys=True)
