"""Shards that were built before, read where they lie."""

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
    """Where tars that come over the network are kept for a while."""

    cache: Annotated[str, NotHashedPath()] = ""
    """shards: folder, on each machine, of tars that were fetched from s3:// or http(s)://; the system's folder for
    temporary files where empty."""
    cache_gigabytes: Annotated[float, Field(ge=0), PerformanceOnly()] = 50.0
    """shards: most that the cache may hold; tars for which there is no room are read in parts, a request per image."""


def open_shards(given: ShardsSettings) -> FinishedShards:
    """Raises ValueError, with the setting, where the root is not set or is of a scheme that nothing here reads."""
    if not given.root:
        raise ValueError(
            "root is not set; it names the folder of finished shards, or their s3:// or http(s):// address"
        )
    if not is_remote(given.root):
        return FinishedShards(tars=RemoteTars(address=str(Path(given.root).absolute())))
    folder = Path(given.cache) if given.cache else Path(tempfile.gettempdir()) / "wsss-shards"
    cache = ShardCache(folder=folder, max_bytes=int(given.cache_gigabytes * 1e9))
    return FinishedShards(tars=RemoteTars(address=given.root, cache=cache))


def tars_of_run(place: str) -> RemoteTars | None:
    """Where the tars of a layer in a run's folder lie, if they were taken over from elsewhere; None for any other."""
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
