"""Imported once by a server process, from which tests fork training ranks: importing takes most of their time."""

from __future__ import annotations

import os

os.environ.setdefault("DS_ACCELERATOR", "cpu")

from cluster.training import engine
from cluster.training.rank_process import import_deepspeed
from tests.cluster import tiny

deepspeed = import_deepspeed()
__all__ = ["deepspeed", "engine", "tiny"]
