"""What a worker measures of the shard that it works on, besides its seconds; noted with them when the shard is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from shards.overlap import Waiting


@dataclass
class ShardMeasures:
    """Measurements of one shard; all empty if its work does not overlap and nothing went wrong."""

    reading: Waiting = field(default_factory=Waiting)
    """For records to be read and decoded."""
    writing: Waiting = field(default_factory=Waiting)
    """For records to be encoded and written."""
    smaller: dict[str, int] = field(default_factory=dict)
    """Name of a setting -> the number of images that were processed together instead, after a GPU ran out of memory."""

    def processed_fewer(self, setting: str, number: int) -> None:
        """Note that only so many images were processed together."""
        self.smaller[setting] = min(number, self.smaller.get(setting, number))

    def noted(self) -> dict[str, float]:
        """The measurements as numbers by name."""
        found = {f"fewer.{setting}": float(number) for setting, number in self.smaller.items()}
        if self.reading.takes or self.writing.takes:
            found |= {
                "read_wait_seconds": self.reading.seconds,
                "write_wait_seconds": self.writing.seconds,
                "takes": float(self.reading.takes),
                "ready": float(self.reading.ready),
            }
        return found


_now = ShardMeasures()


def measures() -> ShardMeasures:
    """Those of the shard in progress in this process."""
    return _now


def begin_measures() -> ShardMeasures:
    """Begin with a shard: nothing is measured of it yet."""
    global _now
    _now = ShardMeasures()
    return _now
