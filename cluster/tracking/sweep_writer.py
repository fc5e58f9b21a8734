"""What the run of a sweep holds once its trials have ended: its best settings, scores, tables and recipe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.tracking.mlflow_store import BEST, LONGEST_PARAM, NOTE
from cluster.tracking.mlflow_values import key
from cluster.tracking.run_content import RunContent
from wsss.contract.runtime import SweepOutcome

if TYPE_CHECKING:
    from mlflow.entities import Run

_FIRST_WORDS = "Sweep over "


def write_outcome(content: RunContent, run: Run, outcome: SweepOutcome, *, when: float) -> None:
    """Write what a sweep found. A sweep that went on replaces what its earlier start had found."""
    run_id = run.info.run_id
    best = {key(f"{BEST}.{name}"): json.dumps(value)[:LONGEST_PARAM] for name, value in outcome.best.items()}
    for tag in run.data.tags:
        if tag.startswith(f"{BEST}.") and tag not in best:
            content.client.delete_tag(run_id, tag)
    written = run.data.tags.get(NOTE, _FIRST_WORDS)
    note = {NOTE: _note(outcome)} if written.startswith(_FIRST_WORDS) else {}  # what a user has written stays
    content.tags(run_id, best | note)
    new = {name: value for name, value in outcome.metrics.items() if run.data.metrics.get(key(name)) != value}
    content.metrics(run_id, new, when=when)
    content.artifacts(run_id, outcome.files)


def _note(outcome: SweepOutcome) -> str:
    lines = [f"{_FIRST_WORDS}{outcome.about.get('settings', 'settings')}.", ""]
    lines += [f"- {title.capitalize()}: {text}" for title, text in outcome.about.items() if title != "settings"]
    lines += [f"- Best: `{name} = {json.dumps(value)}`" for name, value in outcome.best.items()]
    lines.append(f"- Artifacts: {', '.join(outcome.files)}. The trials are nested in this run.")
    return "\n".join(lines)
