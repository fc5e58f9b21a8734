"""The settings of an encoder, shared by all stages that train a network.

Stages import `wsss.models` on use: timm takes seconds to import, and a recipe is read without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from wsss.contract.fit import Fit, load_trained
from wsss.contract.settings import FileContent, settings
from wsss.contract.stage import Instance

if TYPE_CHECKING:
    from wsss.models.classifier import Classifier
    from wsss.models.encoder import Encoder, EncoderSpec

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


@settings
class EncoderSettings:
    """Which encoder, with which weights, on which kind of input."""

    encoder: str = "resnet50"
    """timm's name of the network."""
    pretrained: Annotated[str, FileContent()] = "imagenet"
    """`imagenet` (timm's own weights), `none`, or the path of a .safetensors file with timm's names."""
    output_stride: Literal[8, 16, 32] = 16
    """Pixels of the image per pixel of the last feature map."""
    dilated: bool = True
    """Dilation in place of the strides left out; without it they are left out and nothing else, as irn has it."""
    pad_type: Literal["", "same"] = ""
    """`same` for networks converted from TensorFlow."""
    reparameterised: bool = False
    """The branches of a MobileOne or RepVGG are fused, as its weight file has them."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: the rate at the last block, rising from 0; only for networks of timm that take it."""
    norm: Literal["frozen", "batch", "synchronised"] = "frozen"
    """BatchNorm: fixed as given, of what a rank computes at once, or of what all ranks compute at once."""
    mean: tuple[_Share, _Share, _Share] = (0.485, 0.456, 0.406)
    """Mean of the input's channels, of the range [0, 1]."""
    std: tuple[_Positive, _Positive, _Positive] = (0.229, 0.224, 0.225)
    """Standard deviation of the input's channels, of the range [0, 1]."""

    @field_validator("pretrained")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value in ("imagenet", "none"):
            return value
        if Path(value).suffix != ".safetensors" or not Path(value).is_file():
            raise ValueError("there is no such weight file; allowed are imagenet, none, or a .safetensors file's path")
        return value

    def encoder_spec(self, *, pretrained: bool) -> EncoderSpec:
        """The encoder of these settings; without `pretrained` its weights are random (trained ones follow)."""
        from wsss.models.encoder import EncoderSpec

        return EncoderSpec(
            name=self.encoder,
            output_stride=self.output_stride,
            dilated=self.dilated,
            pretrained=self.pretrained if pretrained else "none",
            pad_type=self.pad_type,
            reparameterised=self.reparameterised,
            drop_path=self.drop_path,
        )


@settings
class EncoderSource(EncoderSettings, Fit):
    """A training whose encoder starts as another training left it, where that is asked for.

    A class with a slot `classifier`.
    """

    encoder_from: Literal["pretrained", "classifier"] = "pretrained"
    """The encoder at the start: as `pretrained` gives it (the published way), or the trained classifier's."""

    def used_slots(self) -> tuple[str, ...]:
        return tuple(slot for slot in self.slots if slot != "classifier" or self.encoder_from == "classifier")

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.encoder_from == "classifier":
            trained, stage = instance.inputs["classifier"], instance.stage_in("classifier", EncoderSettings)
            for setting in ("encoder", "mean", "std", "pad_type", "reparameterised"):
                own, its = getattr(self, setting), getattr(stage, setting)
                if own != its:
                    raise ValueError(
                        f"{instance.name}.{setting} = {own!r}, but its encoder starts as {trained.name}'s, where it is "
                        f"{its!r}; give the same, or set encoder_from = 'pretrained'"
                    )

    def check_environment(self, instance: Instance) -> None:
        """Build the network without weights, and look whether the weights named would fit."""
        import torch

        from wsss.models.encoder import check_encoder, check_name

        try:
            check_name(self.encoder)
        except ValueError as error:
            raise ValueError(f"encoder: {error}") from None
        loads = self.encoder_from == "pretrained"
        check_encoder(self.encoder_spec(pretrained=loads), mean=self.mean, std=self.std)
        with torch.device("meta"):
            self.model(instance, pretrained=False)

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`image`, u8[B, H, W, 3], normalised to f32[B, 3, H, W]."""
        from wsss.data.images import normalised

        return {**batch, "image": normalised(batch["image"], mean=self.mean, std=self.std)}

    def first_encoder(self, instance: Instance, *, pretrained: bool) -> Encoder:
        """The encoder that training starts from; random where trained weights follow (`pretrained` false).

        Raises: ValueError where the settings of the encoder do not fit the classifier's.
        """
        from wsss.models.encoder import build_encoder

        encoder = build_encoder(self.encoder_spec(pretrained=pretrained and self.encoder_from == "pretrained"))
        if pretrained and self.encoder_from == "classifier":
            classifier: Classifier = load_trained(instance.inputs["classifier"])
            try:
                encoder.load_state_dict(classifier.encoder.state_dict())
            except RuntimeError as error:
                raise ValueError(
                    f"{instance.name}.encoder = {self.encoder!r} does not fit the encoder of "
                    f"{instance.inputs['classifier'].name}: {error}"
                ) from error
        return encoder
