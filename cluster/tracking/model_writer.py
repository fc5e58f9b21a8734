"""The networks that trainings kept, as MLflow's logged models: one for each file of weights."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.tracking.mlflow_store import FINGERPRINT, INSTANCE, RECIPE, SERVED
from cluster.tracking.mlflow_values import key, param_value
from cluster.tracking.run_content import RunContent
from cluster.tracking.served_segmenter import save_served
from shards.records import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

CHECKPOINT, FOLDER = "wsss.checkpoint", "wsss.folder"
"""Tags of a model: `last` or `best`, and the folder of the training."""
SEGMENTER = "segmenter"
"""`RunRecord.trains` of the trainings whose network segments a picture alone."""
READ = "wsss.read_by_later_stages"
"""A tag of the one model of a training whose weights later stages read."""


class ModelWriter:
    """Writes logged models, and finds them again."""

    def __init__(self, client: MlflowClient, *, experiment: str, runs: Path, content: RunContent) -> None:
        self._client, self._experiment, self._runs, self._content = client, experiment, runs, content

    def write(self, run: Run, record: RunRecord) -> LoggedModel | None:
        """A model for each file of weights of a training; returns the one that later stages read, None for others."""
        if not record.weights:
            return None
        models = [
            self._model(run, record, name=name, file=file, read=number == 0)
            for number, (name, file) in enumerate(record.weights.items())
        ]
        return models[0]

    def of(self, fingerprint: str) -> LoggedModel | None:
        """The model of a training that later stages read; None if it is not in this store."""
        if not fingerprint:
            return None
        found = self._search({FINGERPRINT: fingerprint, READ: "true"})
        return found[0] if found else None

    def _model(self, run: Run, record: RunRecord, *, name: str, file: str, read: bool) -> LoggedModel:
        identity = {FINGERPRINT: record.fingerprint, CHECKPOINT: name}
        folder = self._runs / "store" / f"{record.kind}-{record.fingerprint[:16]}"
        if found := self._search(identity):
            model = found[0]
        else:
            tags = {INSTANCE: record.instance, RECIPE: record.recipe, FOLDER: str(folder / file)}
            settings = {key(setting): param_value(value) for setting, value in record.settings.items()}
            model = self._client.create_logged_model(
                self._experiment,
                name=f"{record.recipe}-{record.instance}-{name}".replace(".", "_").replace(":", "_"),
                source_run_id=run.info.run_id,
                tags=identity | tags | ({READ: "true"} if read else {}),
                params=settings,
                model_type=record.trains,
            )
        self._produced_by(run, model)
        if str(model.status) != "READY":
            if read and record.trains == SEGMENTER:
                self._store_served(run, record, model, folder / file)
            model = self._client.finalize_logged_model(model.model_id, "READY")
        return model

    def _store_served(self, run: Run, record: RunRecord, model: LoggedModel, weights: Path) -> None:
        """Store a segmenter in the form that MLflow loads and serves, and register it under its recipe's name."""
        if not weights.is_file():
            self._content.say(f"the model {model.name} is not stored in MLflow: there is no file {weights}")
            return
        with tempfile.TemporaryDirectory() as temporary:
            files = Path(temporary) / "model"
            save_served(weights, files, model_id=model.model_id)
            self._client.log_model_artifacts(model.model_id, str(files))
        name = f"{record.recipe}-{record.instance}".replace("/", "_").replace(":", "_")
        if name not in {one.name for one in self._client.search_registered_models(f"name = '{name}'")}:
            about = f"The segmenter {record.instance} of recipe {record.recipe}; a version for each training."
            self._client.create_registered_model(name, description=about)
        # A server finds a model by its id; with a database MLflow would look for the id in another store.
        served = self._client.tracking_uri.startswith(SERVED)
        source = f"models:/{model.model_id}" if served else model.artifact_location
        own = {FINGERPRINT: record.fingerprint}
        known = self._client.search_model_versions(f"name = '{name}'")
        if record.fingerprint not in {one.tags.get(FINGERPRINT) for one in known}:
            self._client.create_model_version(
                name, source, run.info.run_id, tags=own, await_creation_for=0, model_id=model.model_id
            )

    def _produced_by(self, run: Run, model: LoggedModel) -> None:
        """Show the model on the page of its run."""
        from mlflow.entities import LoggedModelOutput

        shown = run.outputs.model_outputs if run.outputs else []
        if model.model_id not in {one.model_id for one in shown}:
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _search(self, tags: dict[str, str]) -> list[LoggedModel]:
        found = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self._client.search_logged_models([self._experiment], filter_string=found))
