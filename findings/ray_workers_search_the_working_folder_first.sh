#!/usr/bin/env bash
# Ray 2.60.0: workers search the driver's working folder for modules before site-packages, even if the driver itself
# does not search it. Suppose an installed command is started in a folder that contains a file with the name of one of
# its modules (cluster.py, shards.py, data.py ...). Then the driver and its workers import different modules.
#
# For an installed command, the first entry of sys.path is the command's bin folder, not the working folder. The same
# holds for a script that is started by its path. Ray adds the working folder to the search path that it passes to
# workers, and the workers put it first.
#
# Observed with Ray 2.60.0, Python 3.11, on one machine:
#   the driver imports shapes of: site-packages
#   a worker imports shapes of:   the working folder
#
# Exit status: 0 if Ray still behaves this way, otherwise not 0. Needs Python 3.11 or 3.12 and a package index, or uv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if command -v uv >/dev/null; then
  uv venv --quiet --python "${PYTHON:-3.11}" "$folder/venv"
  uv pip install --quiet --python "$folder/venv/bin/python" ray==2.60.0
else
  "${PYTHON:-python3}" -m venv "$folder/venv"
  "$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0
fi
site=$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir "$site/shapes" "$folder/started_in"
echo 'PLACE = "site-packages"' >"$site/shapes/__init__.py"
echo 'PLACE = "the working folder"' >"$folder/started_in/shapes.py"
cat >"$folder/venv/bin/measure" <<'PYTHON'
import sys

import ray
import shapes

@ray.remote
def place() -> str:
    import shapes

    return shapes.PLACE

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
in_worker = ray.get(place.remote())
print(f"the driver imports shapes of: {shapes.PLACE}")
print(f"a worker imports shapes of:   {in_worker}")
same = (shapes.PLACE, in_worker) == ("site-packages", "the working folder")
sys.exit(0 if same else "Ray behaves differently now: this finding is out of date")
PYTHON
cd "$folder/started_in"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" "$folder/venv/bin/measure"
