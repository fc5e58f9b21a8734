"""What a run contains: parameters, metrics, tags, data sets and files. Each method may be called again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking.mlflow_store import METRICS_PER_BATCH, PARAMS_PER_BATCH
from cluster.tracking.mlflow_values import batches, key, milliseconds, param_value
from wsss.contract.curve import Point
from wsss.contract.kept_files import found_files

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from rich.console import Console

DIGEST_LENGTH = 32
"""Digits of a fingerprint that are a data set's digest: MLflow stores at most 36."""
_CONTEXT = "mlflow.data.context"


class RunContent:
    """Writes what runs of one folder contain."""

    def __init__(self, client: MlflowClient, *, runs: Path, console: Console) -> None:
        self.client, self._runs, self._console = client, runs, console

    def params(self, run: Run, settings: Mapping[str, object]) -> None:
        """Log parameters. One that the run has is kept: its results were computed with that value."""
        from mlflow.entities import Param

        new = {key(name): value for name, value in settings.items() if key(name) not in run.data.params}
        params = [Param(name, param_value(value)) for name, value in new.items()]
        for batch in batches(params, PARAMS_PER_BATCH):
            self.client.log_batch(run.info.run_id, params=batch)

    def metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        *,
        when: float,
        model: LoggedModel | None = None,
        measured: Mapping[str, str] | None = None,
    ) -> None:
        """Log metrics, for a model if one is given: `measured` is the data set, an entry of `RunRecord.data`."""
        from mlflow.entities import Metric

        finite = {key(name): float(value) for name, value in metrics.items() if math.isfinite(value)}
        tied = {}
        if model is not None:
            tied["model_id"] = model.model_id
            if measured is not None:
                tied |= {"dataset_name": measured["name"], "dataset_digest": measured["digest"][:DIGEST_LENGTH]}
        points = [Metric(name, value, milliseconds(when), 0, **tied) for name, value in finite.items()]
        for batch in batches(points, METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)

    def points(self, run_id: str, points: Iterable[Point]) -> None:
        """Log points of curves with their steps."""
        from mlflow.entities import Metric

        metrics = [
            Metric(key(name), value, milliseconds(point.time), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for batch in batches(metrics, METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=batch)

    def tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags that are not empty."""
        from mlflow.entities import RunTag

        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items() if value])

    def inputs(self, run: Run, data: Sequence[Mapping[str, str]]) -> None:
        """Log the data sets that a run read: entries of `RunRecord.data`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        logged = run.inputs.dataset_inputs if run.inputs else []
        known = {(one.dataset.name, one.dataset.digest) for one in logged}
        new = []
        for layer in data:
            name, digest = layer["name"], layer["digest"][:DIGEST_LENGTH]
            if (name, digest) not in known:
                source = json.dumps({"uri": str(self._runs / "store" / layer["source"])})
                tag = InputTag(_CONTEXT, layer["context"])
                new.append(DatasetInput(Dataset(name, digest, "local", source), [tag]))
        if new:
            self.client.log_inputs(run.info.run_id, new)

    def artifacts(self, run_id: str, artifacts: Mapping[str, str]) -> None:
        """Copy files to the run; one that no longer exists is named to the user and left out."""
        for name, path in found_files(artifacts, folder=self._runs).items():
            try:
                if not Path(path).exists():
                    raise FileNotFoundError("the file no longer exists")
                self.client.log_artifact(run_id, path)
            except (FileNotFoundError, PermissionError) as error:
                # Retrying would not help: the file was removed, or this machine may not write to the artifact store.
                self.say(f"the artifact {name} ({path}) was not stored in MLflow: {error}")

    def say(self, text: str) -> None:
        """Tell the user."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
