"""What `wsss plan` prints: a row per stage, what would be the bottleneck, and every figure with its source."""

from __future__ import annotations

from collections.abc import Iterator

from wsss.contract.fit import Fit
from wsss.plan.costs import BASES
from wsss.plan.hardware import DECODE, GPU, NETWORK, STORAGE, Taken, basis_of
from wsss.plan.plan import Plan, Scaled
from wsss.report.tables import Cell, Column, Page, Shown, Table, table_of

_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
_NUMBERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_BY_RANKS = (GPU, DECODE)
"""Resources that more ranks would bring more of."""


def plan_page(plan: Plan) -> Page:
    """The plan as tables: the stages, what would be the bottleneck at other sizes, and the figures behind it."""
    tables = {"stages": _stages(plan), "bottlenecks": _bottlenecks(plan), "figures": _figures(plan)}
    return Page(heading=tuple(_heading(plan)), tables=tables, main="stages")


def _heading(plan: Plan) -> list[str]:
    cluster, paper = plan.cluster, plan.paper
    gpus = f"{cluster.gpus_per_node} x {cluster.gpu.name} and " if cluster.gpu and cluster.gpus else ""
    images = ", ".join(f"{split} {count:,}" for split, count in paper.images.items())
    lines = [
        f"{plan.recipe.settings.name}: on paper, from {plan.recipe.path}",
        f"cluster: {cluster.nodes} node{'s' * (cluster.nodes > 1)} of {gpus}{cluster.cores_per_node} cores; "
        f"network {cluster.network_gbps:g} Gbit/s a node; storage {cluster.storage_gbps:g} Gbit/s for all",
        f"images: {images} ({paper.told}), of {paper.size[0]} x {paper.size[1]} pixels, {paper.labelled_share:.0%} "
        f"with a label, {paper.labels:g} classes each",
    ]
    if plan.absent:
        lines.append(f"the data are not here, so their class list stands in ({plan.absent})")
    return lines


def _stages(plan: Plan) -> Table:
    columns = (
        Column("stage", "stage", role="name"),
        Column("bound by", "bound_by"),
        Column("basis", "basis"),
        Column("at work", "at_work"),
        Column("hours", "hours", right=True),
        Column("GPU-h", "gpu_hours", right=True),
        Column("core-h", "core_hours", right=True),
        Column("read", "bytes_read", right=True),
        Column("written", "bytes_written", right=True),
        Column("network", "network_bytes", right=True),
        Column("requests", "requests", right=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for planned in plan.stages:
        taken = planned.taken
        basis = basis_of(taken, plan.costs, plan.cluster.gpu if taken.gpus else None)
        at_work = f"{taken.used} of {taken.held} {'GPUs' if taken.gpus else 'cores'}"
        rows.append((planned.instance.name, taken.bound, basis, at_work, *_amounts([taken])))
    rows.append(("total", "", "", "", *_amounts([planned.taken for planned in plan.stages])))
    title = f"stage by stage, one after the other; {BASES[-1]}: not measured, see the figures below"
    return table_of(title, columns, rows, sections=frozenset({len(rows) - 1}), notes=tuple(_notes(plan)))


def _amounts(every: list[Taken]) -> tuple[Cell, ...]:
    """Time, bytes and requests of some stages together."""
    return (
        _hours(sum(taken.seconds for taken in every)),
        _hours(sum(taken.seconds * taken.gpus for taken in every)),
        _hours(sum(taken.core_seconds for taken in every)),
        _bytes(sum(taken.read for taken in every)),
        _bytes(sum(taken.written for taken in every)),
        _bytes(sum(taken.exchanged for taken in every)),
        _number(sum(taken.requests for taken in every)),
    )


def _notes(plan: Plan) -> list[str]:
    """What a reader could take wrongly."""
    cluster = plan.cluster
    notes = ["requests: files opened and parts of files read in the shared folder; GETs where samples lie in a bucket"]
    if cluster.gpus:
        seconds = sum(planned.taken.seconds for planned in plan.stages)
        notes.append(
            f"the whole cluster, held for {_hours(seconds).text} hours: {_hours(seconds * cluster.gpus).text} "
            "GPU-hours; GPU-h counts what a stage holds"
        )
        notes.append(
            "GPUs: a rank each (runtime.rank_gpus = 1), an actor of a stage with a network; other stages on cores"
        )
    idle = [
        planned for planned in plan.stages if isinstance(planned.instance.stage, Fit) and _wants_ranks(planned.taken)
    ]
    if idle:
        names = ", ".join(planned.instance.name for planned in idle)
        notes.append(f"num_ranks leaves places idle in {names}")
    balanced = [p.instance.name for p in plan.stages if getattr(p.instance.stage, "balance", "none") != "none"]
    doubted = [p.instance.name for p in plan.stages if getattr(p.instance.stage, "min_probability", 0.0) > 0]
    if balanced:
        notes.append(f"balance draws some images more or less often; reckoned as one pass: {', '.join(balanced)}")
    if doubted:
        notes.append(
            f"min_probability leaves images out, how many is not known; none is reckoned: {', '.join(doubted)}"
        )
    return notes


def _wants_ranks(taken: Taken) -> bool:
    return taken.used < taken.held and taken.bound in _BY_RANKS


def _bottlenecks(plan: Plan) -> Table:
    what = "GPUs" if plan.cluster.gpus else "cores"
    columns = (
        Column(what, what.lower(), right=True, role="name"),
        Column("images", "images", right=True, role="name"),
        Column("hours", "hours", right=True),
        Column("slowest stage", "slowest_stage"),
        Column("its share", "share", right=True),
        Column("bound by", "bound_by", wraps=True),
        Column("at work", "at_work"),
        Column("next to bind", "next", wraps=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for scaled in plan.scaled:
        taken = scaled.slowest.taken
        share = taken.seconds / scaled.seconds
        rows.append(
            (
                scaled.gpus,
                Shown(scaled.images, f"{scaled.images:,}"),
                _hours(scaled.seconds),
                scaled.slowest.instance.name,
                Shown(share, f"{share:.0%}"),
                _bound(scaled),
                f"{taken.used} of {taken.held}",
                _next(taken),
            )
        )
    title = f"what would be the bottleneck: the slowest stage, with as many ranks and actors as there are {what}"
    return table_of(title, columns, rows)


def _bound(scaled: Scaled) -> str:
    """The resource that binds, and what keeps more of it from helping."""
    taken, stage = scaled.slowest.taken, scaled.slowest.instance.stage
    if taken.used < taken.held and isinstance(stage, Fit) and taken.bound in _BY_RANKS:
        return f"{taken.bound}; batch_size = {stage.batch_size}"
    if taken.used < taken.held and not isinstance(stage, Fit) and taken.bound not in (STORAGE, NETWORK):
        return f"{taken.bound}; number of shards"
    return taken.bound


def _next(taken: Taken) -> str:
    """The resource that would bind if the first were free, and how much faster that would be."""
    ordered = sorted(taken.parts.items(), key=lambda part: -part[1])
    (_, first), (name, second) = ordered[0], ordered[1]
    return f"{name}, at {second / first:.0%} of it" if first else ""


def _figures(plan: Plan) -> Table:
    """The figures behind this plan, each with the number of its source in the lines below."""
    columns = (
        Column("figure", "figure", role="name"),
        Column("value", "value", right=True),
        Column("unit", "unit", wraps=True),
        Column("basis", "basis"),
        Column("source", "source"),
    )
    sources: dict[str, int] = {}
    rows: list[tuple[Cell, ...]] = []
    for name, value, unit, basis, source in _figure_rows(plan):
        place = sources.setdefault(source, len(sources) + 1)
        rows.append((name, Shown(value, f"{value:.3g}"), unit, basis, Shown(source, f"[{place}]")))
    notes = tuple(f"[{place}] {source}" for source, place in sources.items())
    return table_of("the figures behind it (wsss/plan/costs.toml)", columns, rows, notes=notes)


def _figure_rows(plan: Plan) -> Iterator[tuple[str, float, str, str, str]]:
    used = {name for planned in plan.stages for names in planned.taken.behind.values() for name in names}
    used |= set(plan.paper.costs)
    for name, cost in plan.costs.costs.items():
        if name in used:
            yield name, cost.value, cost.unit, cost.basis, cost.source
    if (gpu := plan.cluster.gpu) is None:
        return
    for precision, peak, use in (("fp32", gpu.fp32, gpu.fp32_use), ("bf16", gpu.bf16, gpu.bf16_use)):
        if peak is not None:
            yield f"{gpu.name}, {precision}", peak, "operations/s at most", "published", gpu.source
            yield f"{gpu.name}, {precision}", use, "of them reached", gpu.basis, gpu.use_source
    yield f"{gpu.name}, memory", gpu.bandwidth, "bytes/s", "published", gpu.source


def _hours(seconds: float) -> Shown:
    hours = seconds / 3600
    text = "" if not hours else f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"
    return Shown(hours, text)


def _bytes(number: float) -> Shown:
    scale, unit = next(((scale, unit) for scale, unit in _BYTES if number >= scale), _BYTES[-1])
    return Shown(number, f"{number / scale:.3g} {unit}" if number else "")


def _number(number: float) -> Shown:
    scale, unit = next(((scale, unit) for scale, unit in _NUMBERS if number >= scale), (1.0, ""))
    return Shown(number, f"{number / scale:.3g}{unit}" if number else "")
