"""What the work of a stage is worked out from."""

from __future__ import annotations

from dataclasses import dataclass

from wsss.plan.costs import Costs
from wsss.plan.dataset_stats import Paper
from wsss.plan.networks import Networks


@dataclass(frozen=True)
class Desk:
    """The images, the prices, and a counter of networks."""

    paper: Paper
    costs: Costs
    networks: Networks

    @property
    def classes_per_image(self) -> float:
        """Over all images, those without a label counted."""
        return self.paper.labels * self.paper.labelled_share
