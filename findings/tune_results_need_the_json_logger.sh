#!/usr/bin/env bash
# Ray Tune 2.60.0: an experiment that ran without Tune's automatic loggers (the documented variable
# TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1) has no rows in ResultGrid.get_dataframe, neither after fit nor after
# Tuner.restore. The state that Tune saves in the same folder does hold the last result of every trial.
#
# ResultGrid reads result.json of each trial, which only JsonLoggerCallback writes, and leaves out a trial without it.
# Cure: pass JsonLoggerCallback() among RunConfig.callbacks.
#
# Observed with Ray 2.60.0, Python 3.11, on one machine:
#   rows after fit:      0
#   rows after restore:  0
#   last results in the saved state: 3
#
# Exit status: 0 if Ray Tune still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if command -v uv >/dev/null; then
  uv venv --quiet --python "${PYTHON:-3.11}" "$folder/venv"
  uv pip install --quiet --python "$folder/venv/bin/python" "ray[tune]==2.60.0"
else
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "ray[tune]==2.60.0"
fi
cat >"$folder/measure.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import ray
from ray import tune

folder = Path(sys.argv[1])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


def trial(config):
    return {"score": config["x"]}


space = {"x": tune.grid_search([1, 2, 3])}
tuner = tune.Tuner(trial, param_space=space, run_config=tune.RunConfig(name="exp", storage_path=str(folder), verbose=0))
after_fit = len(tuner.fit().get_dataframe())
after_restore = len(tune.Tuner.restore(str(folder / "exp"), trainable=trial).get_results().get_dataframe())
(state,) = (folder / "exp").glob("experiment_state-*.json")
saved = sum('"score"' in json.dumps(one) or "score" in str(one) for one in json.loads(state.read_text())["trial_data"])
print(f"rows after fit:      {after_fit}")
print(f"rows after restore:  {after_restore}")
print(f"last results in the saved state: {saved}")
same = (after_fit, after_restore, saved) == (0, 0, 3)
sys.exit(0 if same else "Ray Tune behaves differently now: this finding is out of date")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 TUNE_DISABLE_AUTO_CALLBACK_LOGGERS=1 RAY_AIR_NEW_OUTPUT=0 "$folder/venv/bin/python" "$folder/measure.py" "$folder"
