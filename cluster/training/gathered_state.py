"""The state of a training as whole tensors, one per parameter, whatever the number of ranks and the ZeRO stage.

    module/NAME             a parameter or buffer of the network
    optimizer/KEY/NAME      what the optimizer keeps for a parameter: its shape (moments), or one number (`step`)

With ZeRO 1 to 3 every rank has a part of a parameter's values and moments. Rank 0 collects the parts when it saves;
when a training resumes, every rank takes its part of the whole tensors, so their number may have changed. Values are
copied bit by bit. A rank needs memory for one whole copy of the weights while this happens.

DeepSpeed's universal checkpoints serve the same purpose, but have no ZeRO 0, need a conversion by further processes,
and consist of pickles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

MODULE, OPTIMIZER, WEIGHTS = "module/", "optimizer/", "weights"


@dataclass(frozen=True, eq=False)
class _Part:
    """Consecutive values of a parameter that this rank's optimizer updates."""

    name: str
    flat: torch.Tensor
    """The tensor that the optimizer knows: with ZeRO, parts of many parameters one after the other."""
    start: int
    """Where the part starts in `flat`."""
    first: int
    """Where the part starts in the parameter."""
    count: int


def gather(engine: Any) -> dict[str, torch.Tensor]:
    """The whole state, on the CPU, on rank 0; empty on the other ranks. All ranks must call it together."""
    trained, parts = _trained(engine), _parts(engine)
    keys, numbers = _optimizer_keys(engine, parts)
    found: dict[str, torch.Tensor] = {}
    for key in (WEIGHTS, *keys):
        whole = _gather_key(engine, key, trained, parts)
        prefix = MODULE if key == WEIGHTS else f"{OPTIMIZER}{key}/"
        found |= {f"{prefix}{name}": value for name, value in whole.items()}
    rest = _untrained(engine)
    if dist.get_rank() != 0:
        return {}
    for key, of_parameter in numbers.items():
        found |= {f"{OPTIMIZER}{key}/{name}": torch.tensor(value) for name, value in of_parameter.items()}
    return found | rest


def scatter(engine: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Load a whole state into the engine's network and optimizer. All ranks must call it together, before any step.

    Raises KeyError or ValueError if the state is not that of this network and optimizer.
    """
    trained = _trained(engine)
    for name, parameter in engine.module.named_parameters():
        _load_parameter(parameter, _checked(state, f"{MODULE}{name}", shape=_shape(parameter)))
    for name, buffer in engine.module.named_buffers():
        if f"{MODULE}{name}" in state:
            buffer.copy_(_checked(state, f"{MODULE}{name}", shape=buffer.shape))
    optimizer, elements, numbers = _base_optimizer(engine), _elements(state, trained), _numbers(state)
    for flat, parts in _by_flat(_parts(engine)).items():
        own = optimizer.state[flat]
        for key, of_parameter in elements.items():
            if any(part.name in of_parameter for part in parts):
                own[key] = torch.zeros_like(flat)
                for part in parts:
                    _fill(own[key], of_parameter.get(part.name), part)
        for key, of_number in numbers.items():
            if values := [of_number[part.name] for part in parts if part.name in of_number]:
                own[key] = values[0].clone()
        for part in parts:
            _fill(flat.data, state[f"{MODULE}{part.name}"], part)
    _gather_persistent(engine)


def _fill(flat: torch.Tensor, whole: torch.Tensor | None, part: _Part) -> None:
    if whole is not None:
        values = whole.reshape(-1)[part.first : part.first + part.count]
        flat.view(-1)[part.start : part.start + part.count].copy_(values)


def _checked(state: Mapping[str, torch.Tensor], name: str, *, shape: torch.Size) -> torch.Tensor:
    value = state[name]
    if value.shape != shape:
        raise ValueError(f"{name} has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    return value


def _elements(
    state: Mapping[str, torch.Tensor], trained: Mapping[str, torch.nn.Parameter]
) -> dict[str, dict[str, torch.Tensor]]:
    """Key of the optimizer -> parameter -> its values, for values of a parameter's shape."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, name, value in _of_optimizer(state):
        if value.ndim:
            found.setdefault(key, {})[name] = _checked(state, f"{OPTIMIZER}{key}/{name}", shape=_shape(trained[name]))
    return found


def _numbers(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Key of the optimizer -> parameter -> a single number."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, name, value in _of_optimizer(state):
        if not value.ndim:
            found.setdefault(key, {})[name] = value
    return found


def _of_optimizer(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str, torch.Tensor]]:
    for entry, value in state.items():
        if entry.startswith(OPTIMIZER):
            key, _, name = entry.removeprefix(OPTIMIZER).partition("/")
            yield key, name, value


def _trained(engine: Any) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in engine.module.named_parameters() if value.requires_grad}


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO 3 empties the parameter itself
    return shape


def _base_optimizer(engine: Any) -> torch.optim.Optimizer:
    outer = engine.optimizer
    optimizer: torch.optim.Optimizer = outer.optimizer if engine.zero_optimization_stage() else outer
    return optimizer


def _parts(engine: Any) -> list[_Part]:
    """The parts of all trained parameters on this rank."""
    stage, zero = engine.zero_optimization_stage(), engine.optimizer
    found = []
    for name, parameter in _trained(engine).items():
        if stage == 0:
            found.append(_Part(name, parameter, 0, 0, parameter.numel()))
        elif stage < 3:
            if (linked := parameter._hp_mapping) is not None:  # type: ignore[attr-defined]  # else on other ranks
                flat = zero.single_partition_of_fp32_groups[linked.param_group_index]
                here, there = linked.hp_fragment_address, linked.lp_fragment_address
                found.append(_Part(name, flat, here.start, there.start, here.numel))
        else:
            group, start, room = zero.grad_position[zero.get_param_id(parameter)]
            first = room * dist.get_rank()
            count = min(room, parameter.ds_numel - first)  # type: ignore[attr-defined]  # the last parts are padded
            if count > 0:
                found.append(_Part(name, zero.fp32_partitioned_groups_flat[group], start, first, count))
    return found


def _by_flat(parts: list[_Part]) -> dict[torch.Tensor, list[_Part]]:
    found: dict[torch.Tensor, list[_Part]] = {}
    for part in parts:
        found.setdefault(part.flat, []).append(part)
    return found


def _optimizer_keys(engine: Any, parts: list[_Part]) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The optimizer's keys with values of a parameter's shape; and those with one number, with them, on rank 0.

    With ZeRO, numbers belong to many parameters together, and are the same for all.
    """
    state, elements, numbers = _base_optimizer(engine).state, set[str](), dict[str, dict[str, float]]()
    for part in parts:
        for key, value in state.get(part.flat, {}).items():
            if torch.is_tensor(value) and value.shape == part.flat.shape and value.ndim:
                elements.add(key)
            elif value is not None:
                numbers.setdefault(key, {})[part.name] = float(value)
    if engine.zero_optimization_stage():
        of_ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(of_ranks, (elements, {key: max(of.values()) for key, of in numbers.items()}))
        elements = set().union(*(keys for keys, _ in of_ranks))
        largest = {key: value for _, of_rank in of_ranks for key, value in of_rank.items()}
        numbers = {key: dict.fromkeys(_trained(engine), value) for key, value in largest.items()}
    return sorted(elements), numbers


def _gather_key(
    engine: Any, key: str, trained: Mapping[str, torch.nn.Parameter], parts: list[_Part]
) -> dict[str, torch.Tensor]:
    """Parameter -> its weights or one of its moments, whole, on rank 0; empty on the other ranks."""
    state = _base_optimizer(engine).state
    values = {part: part.flat if key == WEIGHTS else state.get(part.flat, {}).get(key) for part in parts}
    if not engine.zero_optimization_stage():
        held = {part.name: value for part, value in values.items() if value is not None}
        return {name: value.detach().cpu().clone() for name, value in held.items()} if dist.get_rank() == 0 else {}
    sizes = [_shape(parameter).numel() for parameter in trained.values()]
    starts = dict(zip(trained, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
    whole = torch.zeros(sum(sizes), dtype=torch.float32, device=engine.device)
    for part, value in values.items():
        if value is not None:
            first = starts[part.name] + part.first
            whole[first : first + part.count] = value.detach()[part.start : part.start + part.count]
    # As integers, because each value comes from one rank: a sum of floats would turn -0.0 into 0.0.
    dist.reduce(whole.view(torch.int32), dst=0)
    if dist.get_rank() != 0:
        return {}
    pieces = zip(trained.items(), whole.cpu().split(sizes), strict=True)
    return {name: piece.reshape(_shape(parameter)).clone() for (name, parameter), piece in pieces}


def _untrained(engine: Any) -> dict[str, torch.Tensor]:
    """The frozen parameters and the buffers, on rank 0."""
    import deepspeed

    named = {name: value for name, value in engine.module.named_parameters() if not value.requires_grad}
    trained = _trained(engine)
    partitioned = [value for value in named.values() if hasattr(value, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
        if dist.get_rank() != 0:
            return {}
        frozen = {name: value.detach().cpu().clone() for name, value in named.items()}
    kept = {name for name in engine.module.state_dict() if name not in trained and name not in named}
    buffers = {name: value.cpu().clone() for name, value in engine.module.named_buffers() if name in kept}
    return {f"{MODULE}{name}": value for name, value in {**frozen, **buffers}.items()}


@torch.no_grad()
def _load_parameter(parameter: torch.nn.Parameter, whole: torch.Tensor) -> None:
    partition = getattr(parameter, "ds_tensor", None)
    if partition is None:
        parameter.copy_(whole)
        return
    first = partition.numel() * dist.get_rank()
    values = whole.reshape(-1)[first : first + partition.numel()]
    partition.data.view(-1)[: values.numel()].copy_(values)


def _gather_persistent(engine: Any) -> None:
    """ZeRO 3 leaves small parameters whole on every rank, and would otherwise compute with their earlier values."""
    persistent = getattr(engine.optimizer, "persistent_parameters", [])
    if persistent:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)


def whole_network_state(task: torch.nn.Module, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a task's network with whole parameters under ZeRO 3, on the CPU; all ranks call it together."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(task.parameters())):
        return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
