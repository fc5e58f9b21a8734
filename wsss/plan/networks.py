"""Floating point operations and parameters of a recipe's networks, counted by passes without numbers.

Shape letters: `B` images, `H W` pixels, `h w` the stride-4 grid, `C` classes with background.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wsss.contract.fit import Fit
from wsss.contract.settings import setting_values
from wsss.contract.stage import Instance
from wsss.stages.train_affinity import TrainAffinity

_GRID_STRIDE = 4
_NUM_IMAGES = 2
"""Images of a counted pass: a norm over a batch of one pixel would be refused."""


Shape = str
"""What a network and its crop follow from."""
_SHAPELESS = frozenset(
    {
        *("balance", "repeat_threshold", "balance_limit", "class_weighting", "class_weight_limit"),
        *("full_share", "full_list", "full_per_batch", "full_weight", "confidence_threshold", "confidence_power"),
        *("encoder_from", "pretrained", "max_shards", "mean", "std", "resize_long", "colour_jitter", "augmentation"),
        *("dropout", "objective", "self_correction", "box_source", "box_threshold", "first_alpha", "last_alpha"),
        *("validation_split", "validation_images", "validation_size"),
    }
)
"""Settings besides those of every training that shape neither."""


@dataclass(frozen=True)
class Training:
    """One step of a training, per example."""

    flops: float
    """Forward and backward, a multiplication and an addition counted as two."""
    parameters: int
    """That learn: what ranks exchange."""


class Networks:
    """Counts once what many stages and clusters ask for."""

    def __init__(self) -> None:
        self._models: dict[Shape, nn.Module] = {}
        self._passes: dict[tuple[Shape, tuple[int, int], str], float] = {}
        self._trainings: dict[Shape, Training] = {}

    def training(self, instance: Instance) -> Training:
        """Of a `Fit` instance, at its own crop.

        Only what learns has a way back: IRNet's encoder is passed once, and an ancillary model beside a segmenter too.
        """
        shape = _shape(instance)
        if shape not in self._trainings:
            stage = cast(Any, instance.stage)
            model = self._model(instance).train()
            size = (stage.crop_size, stage.crop_size)
            flops = _counted(lambda: _backward(_output(model, instance, size)))
            for other in [instance.inputs[slot] for slot in ("ancillary",) if slot in instance.inputs]:
                flops += self.forward(other, size) * _NUM_IMAGES
            parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
            self._trainings[shape] = Training(flops / _NUM_IMAGES, parameters)
        return self._trainings[shape]

    def forward(self, instance: Instance, size: tuple[int, int], *, part: str = "") -> float:
        """Operations of one pass of one image of `size` = (H, W) through the network that `instance` trains.

        `part`: a method of the network that is called in place of the whole.
        """
        place = (_shape(instance), size, part)
        if place not in self._passes:
            model = self._model(instance).eval()
            with torch.no_grad():
                self._passes[place] = _counted(lambda: _output(model, instance, size, part=part)) / _NUM_IMAGES
        return self._passes[place]

    def way_back(self, instance: Instance, size: tuple[int, int], *, layer: str) -> float:
        """Operations from one class's logit of a classifier back to a layer, for one image of `size`."""
        from wsss.models.layer_gradients import LayerGradients

        place = (_shape(instance), size, f"back to {layer}")
        if place not in self._passes:
            gradients = LayerGradients(cast(Any, self._model(instance).eval()), layer=layer)
            image = torch.zeros(_NUM_IMAGES, 3, *size, device="meta")

            def look() -> None:
                list(gradients(image, classes=[[1]] * _NUM_IMAGES).gradients)

            both = _counted(look) / _NUM_IMAGES
            self._passes[place] = max(both - self.forward(instance, size), 0.0)
            # LayerGradients takes the parameters out of the graph; a training that is counted later needs them in it.
            del self._models[_shape(instance)]
        return self._passes[place]

    def _model(self, instance: Instance) -> nn.Module:
        shape = _shape(instance)
        if shape not in self._models:
            assert isinstance(instance.stage, Fit)
            with torch.device("meta"):
                self._models[shape] = instance.stage.model(instance, pretrained=False)
        return self._models[shape]


def _shape(instance: Instance) -> Shape:
    """Equal for instances whose networks and crops are equal: recipes that compare methods train one many times over.

    What is left out is known to change neither; any other setting that differs, and the network counts anew.
    """
    left_out = {field.name for field in fields(Fit)} | _SHAPELESS
    values = {name: value for name, value in setting_values(instance.stage).items() if name not in left_out}
    beside = [_shape(up) for slot, up in instance.inputs.items() if slot == "ancillary"]
    return repr((instance.stage.kind, len(instance.taxonomy), values, beside))


class _Operations(TorchDispatchMode):
    """Adds up the operations of what runs under it, by torch's own formulas.

    Differs from torch's counter: the way back through a convolution in groups, which torch 2.15 counts as if it were
    not in groups (seven times too many for a MobileNetV2's training); and that one follows modules, which breaks the
    hooks of LayerGradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet is torch.ops.aten.convolution_backward:
            self.total += _back_through_convolution(*args)
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def _back_through_convolution(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> float:
    """Towards the input, and towards the weights: each as much as the way forward."""
    _, _, _, _, transposed, _, _, wanted = rest
    positions = x.numel() if transposed else gradient.numel()
    return 2.0 * positions * math.prod(weight.shape[1:]) * sum(wanted[:2])


def _counted(call: Callable[[], Any]) -> float:
    with _Operations() as counter:
        call()
    return counter.total


def _output(model: nn.Module, instance: Instance, size: tuple[int, int], *, part: str = "") -> Any:
    """What the network gives for `_NUM_IMAGES` images, called as its task calls it."""
    image_B3HW = torch.zeros(_NUM_IMAGES, 3, *size, device="meta")
    kind = instance.stage.kind
    if part:
        return getattr(model, part)(image_B3HW)
    if kind == "train_classifier":
        return model(image_B3HW, generator=torch.Generator())
    if kind == "train_ancillary":
        grid_hw = tuple(-(-side // _GRID_STRIDE) for side in size)
        num_classes = len(instance.taxonomy) + 1
        return model(image_B3HW, torch.zeros(_NUM_IMAGES, num_classes, *grid_hw, dtype=torch.bool, device="meta"))
    if kind == "train_correction":
        corrected: Any = model
        logits_BCHW = corrected.primary(image_B3HW)
        return logits_BCHW, corrected.corrector(logits_BCHW.detach(), torch.zeros_like(logits_BCHW))
    if kind == "train_affinity" and cast(TrainAffinity, instance.stage).network == "irnet" and not model.training:
        # An image is looked at with its mirror image, and boundaries alone are asked for.
        return cast(Any, model).edge_logits(image_B3HW)
    return model(image_B3HW)


def _backward(outputs: Any) -> None:
    parts = outputs if isinstance(outputs, tuple | list) else (outputs,)
    total = sum(part.float().sum() for part in parts if isinstance(part, Tensor) and part.requires_grad)
    assert isinstance(total, Tensor), "nothing learns in this network"
    total.backward()
