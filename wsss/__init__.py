"""What do we compute? Operations, losses, models, tasks and stages.

`wsss.load(FILE)` makes a trained segmenter a Python function; see `wsss/use/loaded.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from wsss.use.loaded import LoadedSegmenter

__all__ = ["load"]


def load(path: str | os.PathLike[str], *, device: str = "cpu") -> LoadedSegmenter:
    """The segmenter in a file of weights, or in the folder of a training: call it with a picture.

    `device`: cpu, cuda, cuda:1, … Raises ValueError for a file that holds no segmenter of this project.
    """
    from wsss.use.loaded import load  # torch takes seconds to import

    return load(path, device=device)
