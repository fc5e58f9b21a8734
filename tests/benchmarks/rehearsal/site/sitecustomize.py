"""Python runs this module at the start of every process whose PYTHONPATH holds this folder.

With WSSS_WATCH=FOLDER in the environment, each of them is watched: driver, actors, ranks, loaders.
"""

import os

if os.environ.get("WSSS_WATCH"):
    import pathlib
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    import watch

    sys.path.pop(0)
    watch.begin(os.environ["WSSS_WATCH"])
