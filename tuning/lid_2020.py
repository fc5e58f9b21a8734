"""The official table of LID 2020, track 1, on the challenge's test images: reference rows of the leaderboard.

Source: the slides of the LID 2020 workshop at CVPR.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A team, and the three numbers of the challenge's board, in [0, 1]."""

    team: str
    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float


IMAGES = "LID test"
BOARD = (
    Entry("cvl", 0.4518, 0.5962, 0.8046),
    Entry("VL-task1", 0.3773, 0.6015, 0.8298),
    Entry("UCU&SoftServe", 0.3734, 0.5487, 0.8364),
    Entry("IOnlyHaveSevenDays", 0.3624, 0.6827, 0.8410),
    Entry("play-njupt", 0.3190, 0.4607, 0.8263),
    Entry("xingxiao", 0.2948, 0.4866, 0.8082),
    Entry("hagenbreaker", 0.2250, 0.3992, 0.7738),
    Entry("go-g0", 0.1980, 0.3830, 0.7621),
    Entry("lasthours-try", 0.1256, 0.2465, 0.6435),
    Entry("WH-ljs", 0.0779, 0.1659, 0.6252),
)
