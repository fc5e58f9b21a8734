"""Detects modules in the working folder that Ray's workers would import instead of this package's own.

Ray puts the driver's working folder first on its workers' search path, even if the driver itself does not search it
(the installed command `wsss` does not). A file `cluster.py` there would be imported by every worker.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("shards", "wsss", "cluster", "tuning")


def check_working_folder(folder: Path) -> None:
    """Raise ValueError if `folder` contains another module with the name of one of this package's modules.

    A folder without `__init__.py`, such as a data set in `shards/`, hides nothing.
    """
    for name in PACKAGES:
        found, own = PathFinder.find_spec(name, [str(folder)]), find_spec(name)
        if found is None or found.origin is None or own is None or own.origin is None:
            continue
        if not Path(found.origin).samefile(own.origin):
            raise ValueError(
                f"{found.origin} would be imported by Ray's workers in place of {own.origin}, because they search the "
                "working folder first; start wsss in another folder, rename that file, or add --on local"
            )
