"""Output of `wsss plan`: a row per stage, the bottleneck at other sizes, and every figure with its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wsss.contract.fit import Fit
from wsss.pipeline.unread_settings import inactive_given
from wsss.plan.costs import BASES
from wsss.plan.hardware import DECODE, GPU, NETWORK, STORAGE, Usage, basis_of
from wsss.plan.measured import measured_lines
from wsss.plan.plan import NOT_STATED, Plan, Scaled
from wsss.plan.price_table import price_table
from wsss.plan.prices import Prices
from wsss.report.tables import Cell, Column, Page, Shown, Table, table_of

_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"))
_NUMBERS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
OWN_RUN = "own run"
"""Basis of a row whose seconds per image come from the run that --measured names."""
_NUM_AMOUNTS = 7
_BY_RANKS = (GPU, DECODE)
"""Resources that scale with the number of ranks."""


def plan_page(plan: Plan, prices: Prices | None = None) -> Page:
    """The plan as tables: the stages, what they cost, the bottleneck at other sizes, and the figures used."""
    tables = {"stages": _stages(plan)}
    if prices is not None:
        tables["prices"] = price_table(plan, prices)
    tables |= {"bottlenecks": _bottlenecks(plan), "figures": _figures(plan)}
    return Page(heading=tuple(_heading(plan)), tables=tables, main="stages")


def _heading(plan: Plan) -> list[str]:
    cluster, stats = plan.cluster, plan.data.stats
    gpus = f"{cluster.gpus_per_node} x {cluster.gpu.name} and " if cluster.gpu and cluster.gpus else ""
    images = ", ".join(f"{split} {count:,}" for split, count in plan.images.items())
    lines = [
        f"{plan.recipe.settings.name}: planned from {plan.recipe.path}",
        f"cluster: {cluster.nodes} node{'s' * (cluster.nodes > 1)} of {gpus}{cluster.cores_per_node} cores; "
        f"network {cluster.network_gbps:g} Gbit/s a node; storage {cluster.storage_gbps:g} Gbit/s for all",
        f"images: {images} ({plan.data.origin}), of {stats.size[0]} x {stats.size[1]} pixels"
        f"{' (assumed)' * plan.data.size_assumed}, "
        f"{stats.labelled_share:.0%} with a label, {stats.labels:g} class{'es' * (stats.labels != 1)} each",
    ]
    if plan.absent:
        lines.append(f"the data are not available, so the data set's standard class list is used ({plan.absent})")
    return lines + [f"not read: {line}" for line in inactive_given(plan.recipe)]


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
        usage = planned.usage
        if usage is None:
            images = f"{planned.images:,} images"
            rows.append((planned.instance.name, NOT_STATED, "", images, *[None] * _NUM_AMOUNTS))
            continue
        of_figures = basis_of(usage, plan.costs, plan.cluster.gpu if usage.gpus else None)
        at_work = f"{usage.used} of {usage.held} {'GPUs' if usage.gpus else 'cores'}"
        basis = OWN_RUN if planned.is_measured else of_figures
        rows.append((planned.instance.name, usage.bound, basis, at_work, *_amounts([usage])))
    rows.append(("total", "", "", "", *_amounts(plan.used)))
    title = f"stage by stage, one after the other; {BASES[-1]}: not measured, see the figures below"
    return table_of(title, columns, rows, sections=frozenset({len(rows) - 1}), notes=tuple(_notes(plan)))


def _amounts(every: Sequence[Usage]) -> tuple[Cell, ...]:
    """Total time, bytes and requests of some stages."""
    return (
        _hours(sum(usage.seconds for usage in every)),
        _hours(sum(usage.seconds * usage.gpus for usage in every)),
        _hours(sum(usage.core_seconds for usage in every)),
        _bytes(sum(usage.read for usage in every)),
        _bytes(sum(usage.written for usage in every)),
        _bytes(sum(usage.exchanged for usage in every)),
        _number(sum(usage.requests for usage in every)),
    )


def _notes(plan: Plan) -> list[str]:
    """Notes that prevent misreading the table."""
    cluster = plan.cluster
    notes = ["requests: files opened and parts of files read in the shared folder; GETs if samples are in a bucket"]
    if cluster.gpus:
        seconds = sum(usage.seconds for usage in plan.used)
        notes.append(
            f"the whole cluster, reserved for {_hours(seconds).text} hours: {_hours(seconds * cluster.gpus).text} "
            "GPU-hours; the column GPU-h counts only the GPUs that a stage uses"
        )
        notes.append(
            "GPUs: one per rank (runtime.rank_gpus = 1) or actor of a stage with a network; other stages use cores"
        )
    idle = [p for p in plan.stages if isinstance(p.instance.stage, Fit) and p.usage and _wants_ranks(p.usage)]
    if idle:
        names = ", ".join(planned.instance.name for planned in idle)
        notes.append(f"world_size leaves devices idle in {names}")
    of_stages: dict[str, list[str]] = {}
    for planned in plan.stages:
        for note in planned.notes:
            of_stages.setdefault(note, []).append(planned.instance.name)
        if planned.usage is None:
            note = f"{NOT_STATED}, so not in the total"
            of_stages.setdefault(note, []).append(planned.instance.name)
    notes += [f"{note}: {', '.join(names)}" for note, names in of_stages.items()]
    if plan.run is not None:
        planned_images = {one.instance.name: one.images for one in plan.stages if one.is_measured}
        notes += measured_lines(plan.run, from_tables=_from_tables(plan), planned=planned_images)
    return notes


def _from_tables(plan: Plan) -> dict[str, str]:
    """Instance -> origin of its figures and the reason, for instances that the run did not measure."""
    found = {}
    for planned in plan.stages:
        if not planned.is_measured:
            taken = "from the tables" if planned.usage is not None else NOT_STATED
            found[planned.instance.name] = f"{taken}; {planned.lacking}"
    return found


def _wants_ranks(usage: Usage) -> bool:
    return usage.used < usage.held and usage.bound in _BY_RANKS


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
        Column("next limit", "next", wraps=True),
    )
    rows: list[tuple[Cell, ...]] = []
    for scaled in plan.scaled:
        usage = scaled.usage
        share = usage.seconds / scaled.seconds
        rows.append(
            (
                scaled.gpus,
                Shown(scaled.images, f"{scaled.images:,}"),
                _hours(scaled.seconds),
                scaled.slowest.instance.name,
                Shown(share, f"{share:.0%}"),
                _bound(scaled),
                f"{usage.used} of {usage.held}",
                _next(usage),
            )
        )
    title = f"what would be the bottleneck: the slowest stage, with as many ranks and actors as there are {what}"
    return table_of(title, columns, rows)


def _bound(scaled: Scaled) -> str:
    """The bottleneck, and the setting that prevents using more of it."""
    usage, stage = scaled.usage, scaled.slowest.instance.stage
    if usage.used < usage.held and isinstance(stage, Fit) and usage.bound in _BY_RANKS:
        return f"{usage.bound}; batch_size = {stage.batch_size}"
    if usage.used < usage.held and not isinstance(stage, Fit) and usage.bound not in (STORAGE, NETWORK):
        return f"{usage.bound}; number of shards"
    return usage.bound


def _next(usage: Usage) -> str:
    """The resource that would be the next bottleneck, and its time relative to the first."""
    ordered = sorted(usage.parts.items(), key=lambda part: -part[1])
    (_, first), (name, second) = ordered[0], ordered[1]
    return f"{name}, at {second / first:.0%} of it" if first else ""


def _figures(plan: Plan) -> Table:
    """The figures used in this plan, each with the number of its source in the lines below."""
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
    return table_of("figures used (wsss/plan/costs.toml)", columns, rows, notes=notes)


def _figure_rows(plan: Plan) -> Iterator[tuple[str, float, str, str, str]]:
    used = {name for usage in plan.used for names in usage.behind.values() for name in names}
    used |= set(plan.data.figures)
    for name, cost in plan.costs.costs.items():
        if name in used:
            yield name, cost.value, cost.unit, cost.basis, cost.source
    if (gpu := plan.cluster.gpu) is None:
        return
    for precision, peak, use in (("fp32", gpu.fp32, gpu.fp32_use), ("bf16", gpu.bf16, gpu.bf16_use)):
        if peak is not None:
            yield f"{gpu.name}, {precision}", peak, "operations/s at most", "published", gpu.source
            yield f"{gpu.name}, {precision}", use, "of them assumed to be reached", gpu.basis, gpu.use_source
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
