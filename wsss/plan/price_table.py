"""The table of `wsss plan --prices`: what each stage costs, and what idle GPUs would add."""

from __future__ import annotations

from wsss.plan.plan import Plan
from wsss.plan.prices import Prices, bills, head_cost
from wsss.report.tables import Cell, Column, Shown, Table, table_of

_NOT_INCLUDED = (
    "not included: the minutes in which a node starts and in which it waits for its idle timeout, storage, and traffic"
)


def price_table(plan: Plan, prices: Prices) -> Table:
    """A row per stage. Raises `PlanError` if no type of node fits a stage."""
    columns = (
        Column("stage", "stage", role="name"),
        Column("hours", "hours", right=True),
        Column("nodes", "nodes"),
        Column("cost", "cost", right=True),
        Column("idle GPU nodes", "idle_gpu_nodes", right=True),
        Column("if kept", "idle_cost", right=True),
    )
    found = bills(prices, [planned.usage for planned in plan.stages])
    rows: list[tuple[Cell, ...]] = []
    for planned, bill in zip(plan.stages, found, strict=True):
        nodes = f"{bill.num_nodes} x {bill.node}" if bill.node else "cost not stated"
        idle = Shown(bill.idle_gpu_nodes, str(bill.idle_gpu_nodes or ""))
        rows.append((planned.instance.name, _hours(bill.hours), nodes, _money(bill.cost), idle, _money(bill.idle_cost)))
    hours, head = sum(bill.hours for bill in found), head_cost(prices, found)
    if prices.head:
        rows.append(("head node", _hours(hours), f"1 x {prices.head}", _money(head), Shown(0, ""), _money(0.0)))
    total, idle_total = head + sum(bill.cost for bill in found), sum(bill.idle_cost for bill in found)
    rows.append(("total", _hours(hours), "", _money(total), Shown(0, ""), _money(idle_total)))
    notes = [
        f"every node is rented for the stages that use it: {total:,.2f} in all; if the nodes with GPUs were kept "
        f"through the stages that use none or fewer, they would cost {idle_total:,.2f} more",
        _NOT_INCLUDED,
    ]
    title = f"prices of {prices.path}, for one run of the whole recipe"
    return table_of(title, columns, rows, sections=frozenset({len(rows) - 1}), notes=tuple(notes))


def _hours(hours: float) -> Shown:
    return Shown(hours, f"{hours:,.2f}" if hours else "")


def _money(amount: float) -> Shown:
    return Shown(amount, f"{amount:,.2f}" if amount else "")
