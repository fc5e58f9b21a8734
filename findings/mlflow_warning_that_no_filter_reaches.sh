#!/usr/bin/env bash
# MLflow 3.17.2: defining a subclass of mlflow.pyfunc.PythonModel whose predict has no type hints prints a UserWarning that
# no filter of the program stops: not warnings.simplefilter("ignore") around the class, not PYTHONWARNINGS=ignore. MLflow
# puts filters of its own in front while the class is made. A model saved from code is defined anew wherever it is loaded,
# so every process that serves it prints the warning too.
#
# Cure: replace warnings.showwarning while the class is defined.
#
# Observed with MLflow 3.17.2, Python 3.11:
#   filter:          shown
#   PYTHONWARNINGS:  shown
#   showwarning:     not shown
#
# Exit status: 0 if MLflow still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if command -v uv >/dev/null; then
  uv venv --quiet --python "${PYTHON:-3.11}" "$folder/venv"
  uv pip install --quiet --python "$folder/venv/bin/python" "mlflow==3.17.2"
else
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "mlflow==3.17.2"
fi
cat >"$folder/define.py" <<'PYTHON'
import sys
import warnings

from mlflow.pyfunc import PythonModel

if sys.argv[1] == "filter":
    warnings.simplefilter("ignore")
if sys.argv[1] == "showwarning":
    warnings.showwarning = lambda *words, **named: None


class Double(PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * 2
PYTHON
cd "$folder"
found=""
for how in filter PYTHONWARNINGS showwarning; do
  variable=default
  if [ "$how" = PYTHONWARNINGS ]; then variable=ignore; fi
  PYTHONWARNINGS=$variable "$folder/venv/bin/python" define.py "$how" 2>"$folder/said"
  if grep -q "Add type hints" "$folder/said"; then shown="shown"; else shown="not shown"; fi
  printf '%-16s %s\n' "$how:" "$shown"
  found="$found$how $shown, "
done
if [ "$found" != "filter shown, PYTHONWARNINGS shown, showwarning not shown, " ]; then
  echo "MLflow behaves differently now: this finding is out of date" >&2
  exit 1
fi
