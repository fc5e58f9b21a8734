"""MLflow's own pages in a browser: what they show of five pipelines and two submissions."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from mlflow import MlflowClient
from rich.console import Console

from cluster.tracking.mlflow_store import find_runs
from cluster.tracking.tracker import MlflowTracker, connect
from cluster.tracking.tracking_address import runs_page
from tests.cluster.tracking.servers import mlflow_server
from tests.cluster.tracking.test_run_writer import DATA, SCORED, STAGE, START, TRAINED
from tests.conftest import NOT_RUN
from wsss.contract.curve import CURVE, append_point
from wsss.contract.runtime import PipelineRecord, SubmissionRecord

pytestmark = [pytest.mark.extended, pytest.mark.slow]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
SETTING = "make_pseudo_labels.background_threshold"
SECONDS = 60


@dataclass(frozen=True)
class Pages:
    """A browser's page, the server's address, and the ids of runs by name."""

    page: Any
    address: str
    experiment: str
    runs: dict[str, str]

    def text(self, path: str, *, until: str) -> str:
        """The text of a page once it shows something."""
        self.page.goto("about:blank")  # MLflow's pages would keep parts of the one before
        self.page.goto(path if path.startswith("http") else f"{self.address}/{path}")
        self.page.get_by_text(until).first.wait_for(timeout=1000 * SECONDS)
        self.page.wait_for_timeout(1500)
        if folder := os.environ.get("WSSS_SCREENSHOTS"):
            for width in (400, 1280):
                self.page.set_viewport_size({"width": width, "height": 900})
                self.page.wait_for_timeout(700)
                name = f"{until.replace(' ', '-')}-{len(list(Path(folder).glob('*')))}"
                self.page.screenshot(path=str(Path(folder) / f"{name}-{width}.png"))
        return str(self.page.inner_text("body"))

    def compared(self, *names: str) -> str:
        chosen = quote(json.dumps([self.runs[name] for name in names]))
        experiments = quote(json.dumps([self.experiment]))
        return f"#/compare-runs?runs={chosen}&experiments={experiments}&workflowType=machine_learning"


def record(tracker: MlflowTracker, runs: Path) -> None:
    for number, threshold in enumerate(THRESHOLDS):
        pipeline, changed = PipelineRecord("voc_animals", str(number) * 64), {SETTING: threshold}
        start = replace(START, changed=changed, resolved=START.resolved | changed)
        tracker.pipeline_started(pipeline, start)
        tracker.stage_started(pipeline, STAGE)
        for step in range(1, 41) if number == 0 else ():
            append_point(runs / STAGE.path / CURVE, step=step, values={"train/loss": math.exp(-step / 10)})
        tracker.stage_finished(pipeline, replace(TRAINED, recipe="voc_animals"))
        scores = {"val.mean_iou": 0.4 + threshold / 10, "mean_iou": 0.4 + threshold / 10}
        scored = replace(SCORED, recipe="voc_animals", fingerprint=f"e{number}" * 32, metrics=scores)
        tracker.stage_finished(pipeline, scored)
        board = {"LID/val_mean_iou": 0.4 + threshold / 10}
        if number < 2:
            classes = {"class_iou/cat": 0.61 + number / 10, "class_iou/dog": 0.55}
            made = SubmissionRecord(
                "submit", f"5{number}" * 32, start.resolved, changed, {"train": "a" * 64}, board | classes,
                "mean IoU 41.0 on val", "in order", "0123abc", {}, [DATA],
            )  # fmt: skip
            tracker.submission_made(pipeline, made)
        tracker.pipeline_finished(pipeline, board, {})


def ids(client: MlflowClient) -> tuple[str, dict[str, str]]:
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    found = find_runs(client, experiment=experiment.experiment_id, tags={})
    return experiment.experiment_id, {str(run.info.run_name): run.info.run_id for run in found}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    playwright = pytest.importorskip("playwright.sync_api", reason=f"{NOT_RUN}playwright is not installed")
    browser_file = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_file is None:
        pytest.skip(f"{NOT_RUN}there is no Chromium (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("pages")
    uri, runs = f"sqlite:///{folder / 'mlflow.db'}", folder / "runs"
    (runs / STAGE.path).mkdir(parents=True)
    record(MlflowTracker(uri=uri, runs=runs, console=Console(file=io.StringIO())), runs)
    experiment, by_name = ids(connect(uri))
    with mlflow_server(uri, folder) as address, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_file, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        yield Pages(page, address, experiment, by_name)
        browser.close()


def test_the_printed_address_shows_the_runs_at_once(pages: Pages) -> None:
    name = "voc_animals, background_threshold 0.5"
    text = pages.text(runs_page(pages.experiment, server=pages.address), until=name)
    assert "Traces\n0" not in text
    for threshold in THRESHOLDS:
        assert f"voc_animals, background_threshold {threshold}" in text
    assert "submission voc_animals, background_threshold 0.1" in text


def test_two_pipelines_are_compared_by_the_setting_that_differs(pages: Pages) -> None:
    names = [f"voc_animals, background_threshold {threshold}" for threshold in (0.1, 0.4)]
    text = pages.text(pages.compared(*names), until="Run details")
    assert "No parameters to display" not in text and SETTING in text
    for name in names:
        shown = pages.page.get_by_text(name, exact=True).first
        assert not shown.evaluate("one => one.scrollWidth > one.clientWidth + 1"), "the name is cut"
    assert "evaluate.val.mean_iou" in text and "LID/val_mean_iou" in text


def test_two_submissions_are_compared_class_by_class(pages: Pages) -> None:
    names = [f"submission voc_animals, background_threshold {threshold}" for threshold in (0.1, 0.2)]
    text = pages.text(pages.compared(*names), until="Run details")
    assert SETTING in text and "class_iou/cat" in text and "class_iou/dog" in text
    assert "0.61" in text and "0.71" in text, "the IoU of cats in both"
    assert "0.41" in text and "0.42" in text, "both scores"


def test_a_training_has_a_curve_of_its_steps(pages: Pages) -> None:
    path = f"#/experiments/{pages.experiment}/runs/{pages.runs['train']}/model-metrics?workflowType=machine_learning"
    pages.text(path, until="loss")
    pages.page.wait_for_selector(".js-plotly-plot", timeout=1000 * SECONDS)
    longest = pages.page.evaluate(
        "Math.max(...[...document.querySelectorAll('.js-plotly-plot')].flatMap(p => p.data.map(d => d.x.length)))"
    )
    assert longest == 40


def test_a_pipeline_says_what_it_is(pages: Pages) -> None:
    name = "voc_animals, background_threshold 0.2"
    path = f"#/experiments/{pages.experiment}/runs/{pages.runs[name]}?workflowType=machine_learning"
    text = pages.text(path, until="About this run")
    assert name in text and "wsss run toy" in text and "ada" in text and "0123abc" in text
    assert f"{SETTING} = 0.2" in text and "build_shards" in text and "Finished" in text
