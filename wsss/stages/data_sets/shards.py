"""Shards that were built before, read in place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

from pydantic import Field

from shards.remote_tars import RemoteTars
from shards.shard_cache import ShardCache
from shards.sources.finished import FinishedShards
from shards.storage import is_remote
from wsss.contract.settings import NotHashedPath, PerformanceOnly, settings
from wsss.stages.data_sets.shared import SharedSettings


@settings
class ShardsSettings(SharedSettings):
    """The cache for tars that are fetched over the network."""

    cache: Annotated[str, NotHashedPath()] = ""
    """shards: cache folder, on each machine, for tars fetched from s3:// or http(s)://; if empty, a folder in the
    system's folder for temporary files."""
    cache_gigabytes: Annotated[float, Field(ge=0), PerformanceOnly()] = 50.0
    """shards: largest size of the cache; tars that do not fit are read in parts, with one request per image."""


def open_shards(given: ShardsSettings) -> FinishedShards:
    """Open the shards. Raises ValueError, naming the setting, if the root is not set or has an unknown scheme."""
    if not given.root:
        raise ValueError(
            "root is not set; set it to the folder of finished shards, or to their s3:// or http(s):// address"
        )
    if not is_remote(given.root):
        return FinishedShards(tars=RemoteTars(address=str(Path(given.root).absolute())))
    folder = Path(given.cache) if given.cache else Path(tempfile.gettempdir()) / "wsss-shards"
    cache = ShardCache(folder=folder, max_bytes=int(given.cache_gigabytes * 1e9))
    return FinishedShards(tars=RemoteTars(address=given.root, cache=cache))


def tars_of_run(place: str) -> RemoteTars | None:
    """Where the tars of a layer in a run's folder are stored, if they are reused from elsewhere; otherwise None."""
    if is_remote(place):
        return None
    try:
        dotted = json.loads((Path(place) / "settings.json").read_bytes())["settings"]
        own = {name.partition(".")[2]: value for name, value in dotted.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if own.get("source") != "shards":
        return None
    names = ("root", "cache", "cache_gigabytes")
    return open_shards(ShardsSettings(**{name: own[name] for name in names if name in own})).tars
