"""`wsss plan --prices`: what each stage costs on rented nodes, and what idle GPUs would add."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wsss.plan.test_plan import CHAIN, cluster
from wsss.__main__ import main
from wsss.plan.costs import PlanError
from wsss.plan.hardware import Limits, Usage
from wsss.plan.plan import make_plan
from wsss.plan.prices import Bill, bills, head_cost, read_prices

PRICES = """
head = "tiny"
[nodes.tiny]
price = 0.05
cores = 2
[nodes.cores]
price = 0.50
cores = 16
[nodes.gpu]
price = 3.0
cores = 8
gpus = 1
[nodes.eight]
price = 20.0
cores = 96
gpus = 8
"""


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    return path


def test_every_stage_by_hand(prices: Path) -> None:
    """20 cores for an hour: ten tiny nodes or two of 16; 3 GPUs: three of one; 8 GPUs: one node of eight."""
    stages = [
        Usage(seconds=3600, cores=40),
        Usage(seconds=1800, cores=24, gpus=3),
        Usage(seconds=7200, cores=8, gpus=8),
        None,
    ]
    found = bills(read_prices(prices), stages)
    assert [(bill.node, bill.num_nodes) for bill in found[:3]] == [("tiny", 20), ("gpu", 3), ("eight", 1)]
    assert [bill.cost for bill in found[:3]] == pytest.approx([1.0, 4.5, 40.0])
    assert found[3] == Bill(hours=0.0, node="", num_nodes=0, cost=0.0)
    assert head_cost(read_prices(prices), found) == pytest.approx(0.05 * 3.5)
    # The most nodes with GPUs that a stage needs: three. While cores work, all of them would be idle.
    assert [bill.idle_gpu_nodes for bill in found] == [3, 0, 2, 0]
    assert [bill.idle_cost for bill in found] == pytest.approx([9.0, 0.0, 12.0, 0.0])


def test_without_stages_on_gpus_nothing_is_idle(prices: Path) -> None:
    (bill,) = bills(read_prices(prices), [Usage(seconds=3600, cores=1)])
    assert (bill.node, bill.num_nodes, bill.idle_cost) == ("tiny", 1, 0.0)


def test_cores_of_nodes_with_gpus_serve_where_there_are_no_others(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[nodes.gpu]\nprice = 2\ncores = 4\ngpus = 2\n")
    found = bills(read_prices(path), [Usage(seconds=3600, cores=5), Usage(seconds=3600, cores=2, gpus=2)])
    assert [(bill.node, bill.num_nodes, bill.idle_gpu_nodes) for bill in found] == [("gpu", 2, 0), ("gpu", 1, 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"prices.toml: it cannot be read \(No such file"),
        ("x = [", "prices.toml is not valid TOML"),
        ("", r"it names no nodes; write tables \[nodes.NAME\]"),
        ("[node.a]\nprice = 1", "unknown entry 'node'; did you mean nodes"),
        ("[nodes.a]\nprice = 1\ncore = 2", r"nodes.a.core: unknown setting 'core'; did you mean cores"),
        ("[nodes.a]\ncores = 2", "nodes.a.price: a value is needed"),
        ("[nodes.a]\nprice = -1\ncores = 2", r"nodes.a.price: it must be at least 0 \(got -1\)"),
        ("[nodes.a]\nprice = 1\ncores = 0", "nodes.a.cores: it must be at least 1"),
        ("[nodes]\na = 3", r"nodes.a is no table; write \[nodes.a\]"),
        ('head = "b"\n[nodes.a]\nprice = 1\ncores = 1', "head: unknown type of node 'b'"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "prices.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match=message):
        read_prices(path)


def test_gpus_without_a_node_that_has_them(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[nodes.a]\nprice = 1\ncores = 2\n")
    with pytest.raises(PlanError, match="the plan needs GPUs, and no type of node has any; add one with gpus"):
        bills(read_prices(path), [Usage(seconds=1, gpus=1)])


@pytest.mark.slow
def test_the_table_of_a_recipe(tmp_path: Path, prices: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(CHAIN)
    options = ["--nodes", "4", "--gpus-per-node", "1", "--gpu", "A100", "--cores-per-node", "8", "--images", "4000"]
    assert main(["plan", str(recipe), *options, "--prices", str(prices)]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("prices of ") :]
    lines = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert " x gpu" in lines["train_classifier"] and " x gpu" in lines["make_cams"]
    assert " x gpu" not in lines["build_shards"] and " x eight" not in lines["build_shards"]
    assert "head" in lines and "through the stages that use none or fewer" in table
    assert "prices of" not in (main(["plan", str(recipe), *options]), capsys.readouterr().out)[1]


@pytest.mark.slow
def test_own_resources_of_a_stage_enter_the_plan(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(CHAIN)

    def held(*given: str) -> dict[str, tuple[float, float]]:
        plan = make_plan(recipe, [f"runtime.runs={tmp_path}", *given], cluster=cluster(), images="4000")
        return {p.instance.name: (p.usage.gpus, p.usage.cores) for p in plan.stages if p.usage is not None}

    usual = held("runtime.num_actors=8")
    changed = held("runtime.num_actors=8", "runtime.make_cams.num_actors=2", "runtime.make_seeds.actor_cpus=4")
    assert usual["make_cams"] == (8.0, 8.0) and changed["make_cams"] == (2.0, 2.0)
    assert usual["make_seeds"][1] == 8.0 and changed["make_seeds"][1] == 32.0
    assert changed["build_shards"] == usual["build_shards"] == (0.0, 8.0)
    assert Limits().actor_cpus == 1.0
