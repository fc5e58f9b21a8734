"""The leaderboard of 1,000 evaluations, against MLflow's own client reading the same runs.

Every evaluation has 60 metrics and 10 parameters, and is part of a pipeline of its own. Both read the pipelines and the
evaluations; ours also makes the table. CPU seconds of the process, after `import mlflow`. The number of SQL statements
is counted with 100 and with 1,000 evaluations.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tuning.leaderboard import leaderboard, leaderboard_table
from wsss.report.tables import plain

NUM_METRICS, NUM_PARAMS = 60, 10
SECONDS_BAR = 1.0


def fill(runs: Path, num_runs: int) -> None:
    """A store of MLflow, filled by SQL: through the client it would take minutes."""
    runs.mkdir()
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    experiment = int(client.create_experiment("wsss", str(runs / "artifacts")))
    run_columns = (
        "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id, source_type, "
        "source_name, entry_point_name, user_id, source_version"
    )
    with sqlite3.connect(runs / "mlflow.db") as store:

        def add(name: str, start: int, tags: dict[str, str]) -> str:
            run_id = uuid.UUID(int=2 * start + (name == "evaluate")).hex
            values = (
                run_id, name, "FINISHED", start, start + 1, "active", f"{runs}/{run_id}", experiment, "LOCAL", "", "",
                "someone", "",
            )  # fmt: skip
            store.execute(f"INSERT INTO runs ({run_columns}) VALUES ({', '.join('?' * len(values))})", values)
            rows = [(key, value, run_id) for key, value in tags.items()]
            store.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", rows)
            return run_id

        for number in range(num_runs):
            recipe = f"recipe_{number % 7}"
            pipeline = add(
                recipe, number,
                {"wsss.kind": "pipeline", "wsss.recipe": recipe, "wsss.pipeline": f"{number:064x}"},
            )  # fmt: skip
            tags = {
                "wsss.kind": "evaluate", "wsss.recipe": recipe, "wsss.fingerprint": f"{number:064x}",
                "wsss.instance": "evaluate", "mlflow.parentRunId": pipeline, "wsss.supervision": "image",
            }  # fmt: skip
            run_id = add("evaluate", number, tags)
            names = ["mean_iou", "mean_accuracy", "labels_given", *(f"val.other_{i}" for i in range(NUM_METRICS - 3))]
            values = [(name, 0.0 if name == "labels_given" else number / num_runs, 0, 0, 0, run_id) for name in names]
            for table in ("metrics", "latest_metrics"):
                columns = "key, value, timestamp, step, is_nan, run_uuid"
                store.executemany(f"INSERT INTO {table} ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)
            params = [("evaluate.splits", '["train", "val"]', run_id)]
            params += [(f"evaluate.other_{i}", "1", run_id) for i in range(NUM_PARAMS - 1)]
            store.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", params)


def ours(runs: Path) -> list[float]:
    rows = leaderboard(runs)
    assert plain(leaderboard_table(rows, published=True)).count("\n") > len(rows)
    return [row.metrics["mean_iou"] for row in rows]


def rival(runs: Path) -> list[float]:
    """MLflow's client, with pages as large as it allows."""
    client = MlflowClient(tracking_uri=f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("wsss")
    assert experiment is not None
    found: dict[str, Any] = {}
    for kind in ("pipeline", "evaluate"):
        found[kind] = client.search_runs([experiment.experiment_id], f"tags.`wsss.kind` = '{kind}'", max_results=50_000)
    return sorted((run.data.metrics["mean_iou"] for run in found["evaluate"]), reverse=True)


def statements(call: Callable[[], object]) -> int:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    count = 0

    def note(*arguments: object) -> None:
        nonlocal count
        count += 1

    event.listen(Engine, "before_cursor_execute", note)
    call()
    event.remove(Engine, "before_cursor_execute", note)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"ours": [], "rival": []}
    with tempfile.TemporaryDirectory() as temporary:
        many, few = Path(temporary) / "many", Path(temporary) / "few"
        fill(many, options.runs)
        fill(few, options.runs // 10)
        found: dict[str, list[float]] = {}
        for _ in range(options.repetitions):
            for name, call in (("ours", ours), ("rival", rival)):
                start = time.process_time()
                found[name] = call(many)
                seconds[name].append(time.process_time() - start)
        counts = [statements(partial(ours, runs)) for runs in (few, many)]
    first, median = seconds["ours"][0], {name: statistics.median(values) for name, values in seconds.items()}
    error = max(abs(a - b) for a, b in zip(found["ours"], found["rival"], strict=True))
    cpu = f"ours {median['ours']:.2f} s of CPU (first {first:.2f}), MLflow's client {median['rival']:.2f}"
    print(f"{cpu}; statements {counts}")
    checks = {
        "CPU seconds, the first time": {"value": first, "bar": SECONDS_BAR, "ok": first <= SECONDS_BAR},
        "SQL statements beyond those of a tenth of the runs": {
            "value": counts[1] - counts[0], "bar": 0, "ok": counts[1] == counts[0],
        },
    }  # fmt: skip
    result = {
        "name": "leaderboard", "ratio": median["rival"] / median["ours"], "agreement": error == 0, "error": error,
        "seconds": median["ours"], "checks": checks,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
