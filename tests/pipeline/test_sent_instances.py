"""What is sent to the workers of a stage."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cluster.local import LocalRuntime
from tests.pipeline.chain import NoTracker
from tests.shards.sources.ilsvrc_folder import make_ilsvrc
from wsss.contract.stage import Instance
from wsss.pipeline.progress import Reporter
from wsss.pipeline.recipe import load_recipe
from wsss.pipeline.run import run_recipe

RECIPE = """
[recipe]
name = "lists"

[stages.build_shards]
source = "ilsvrc_det"
root = "{root}"
splits = ["train", "val"]

[stages.train_classifier]
pretrained = "none"
"""


class SentError(Exception):
    """Ends the run where a training would begin."""


class Sending(LocalRuntime):
    """Makes layers in this process, and pickles what it would send."""

    sent: bytes

    def fit(self, instance: Instance, *args: object, **options: object) -> object:
        self.sent = pickle.dumps(instance)
        raise SentError


def test_the_list_of_images_is_not_sent_to_later_stages(tmp_path: Path) -> None:
    path = tmp_path / "lists.toml"
    path.write_text(RECIPE.format(root=make_ilsvrc(tmp_path / "det")))
    recipe = load_recipe(path, [f"runtime.runs={tmp_path / 'runs'}", "runtime.max_missing=1.0"])
    runtime = Sending(recipe.runtime)
    with pytest.raises(SentError):
        run_recipe(recipe, runtime=runtime, tracker=NoTracker(), reporter=Reporter(quiet=True))
    made = recipe.instance("build_shards").layer
    keys = [key for entry in made.manifest_entries("train") for key in entry.entries.keys]
    assert len(keys) > 3 and not [key for key in keys if key.encode() in runtime.sent]
    assert pickle.loads(runtime.sent).taxonomy == recipe.instance("train_classifier").taxonomy
