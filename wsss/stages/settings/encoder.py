"""The settings of an encoder, shared by all stages that train a network.

Stages import `wsss.models` only when they use it: timm takes seconds to import and is not needed to read a recipe.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator

from wsss.contract.fit import Fit, load_trained
from wsss.contract.settings import FileContent, settings
from wsss.contract.stage import Instance

if TYPE_CHECKING:
    from torch import nn

    from wsss.models.base_encoder import Encoder
    from wsss.models.classifier import Classifier
    from wsss.models.encoder import EncoderSpec

_Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]


@settings
class EncoderSettings:
    """The encoder, its weights and the normalisation of its input."""

    encoder: str = "resnet50"
    """The network's name in timm, or a published one: VGG16 as modified by FickleNet (`vgg16_ficklenet`), AffinityNet
    (`vgg16_affinitynet`) or NoPeopleAllowed, with the three additional convolutions of its code (`vgg16_npa`) or the
    four of its slides (`vgg16_npa_4conv`); or AffinityNet's `resnet38`. timm's plain vision transformers with patches
    of 16 pixels (`vit_small_patch16_224`, `deit_small_patch16_224`) need output_stride = 16 and dilated = false."""
    pretrained: Annotated[str, FileContent()] = "imagenet"
    """`imagenet` (timm's default weights), `none` (random), or the path of a .safetensors file with timm's parameter
    names; of `vgg16_affinitynet` and `resnet38` also with those of AffinityNet's public code."""
    output_stride: Literal[8, 16, 32] = 16
    """Ratio of the image's side to the side of the last feature map."""
    dilated: bool = True
    """Replace each removed stride by dilation. If false, strides are removed without adding dilation, as in irn; a
    vision transformer has none."""
    pad_type: Literal["", "same"] = ""
    """Padding of convolutions; `same` for networks whose weights were converted from TensorFlow."""
    reparameterised: bool = False
    """Fuse the branches of a MobileOne or RepVGG; for weight files that hold the fused network."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: the drop rate at the last block, rising linearly from 0; only for timm networks that support
    it."""
    norm: Literal["frozen", "batch", "synchronised"] = "frozen"
    """BatchNorm statistics: `frozen` (those of the weight file), `batch` (of each rank's micro-batch), or
    `synchronised` (of the micro-batches of all ranks together). A vision transformer has none, so that only `batch`
    makes a difference, for a decoder with BatchNorm."""
    mean: tuple[_Share, _Share, _Share] = (0.485, 0.456, 0.406)
    """Mean of the input channels, for pixel values in [0, 1]."""
    std: tuple[_Positive, _Positive, _Positive] = (0.229, 0.224, 0.225)
    """Standard deviation of the input channels, for pixel values in [0, 1]."""

    @field_validator("pretrained")
    @classmethod
    def _exists(cls, value: str) -> str:
        if value in ("imagenet", "none"):
            return value
        if Path(value).suffix != ".safetensors" or not Path(value).is_file():
            raise ValueError("there is no such weight file; allowed are imagenet, none, or a .safetensors file's path")
        return value

    def encoder_spec(self, *, pretrained: bool) -> EncoderSpec:
        """The encoder of these settings; without `pretrained` its weights are random (to be overwritten later)."""
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
    """A training whose encoder can be initialised from a trained classifier.

    Subclasses must have a slot `classifier`.
    """

    encoder_from: Literal["pretrained", "classifier"] = "pretrained"
    """Initial weights of the encoder: those named by `pretrained`, as in irn, or the trained classifier's."""

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
                        f"{instance.name}.{setting} = {own!r}, but its encoder is initialised from {trained.name}, "
                        f"which has {its!r}; set the same value, or set {instance.name}.encoder_from = 'pretrained'"
                    )

    def check_environment(self, instance: Instance) -> None:
        """Build the network without weights, and check that the weights named in the settings fit it."""
        import torch

        from wsss.models.encoder import check_encoder, check_name

        try:
            check_name(self.encoder)
        except ValueError as error:
            raise ValueError(f"encoder: {error}") from None
        loads = self.encoder_from == "pretrained"
        check_encoder(self.encoder_spec(pretrained=loads), mean=self.mean, std=self.std)
        with torch.device("meta"):
            network = self.model(instance, pretrained=False)
        self._check_norm(network)

    def _check_norm(self, network: nn.Module) -> None:
        """Raise ValueError for a `norm` that changes nothing: it is not `frozen`, and no BatchNorm reads it."""
        from wsss.models.norm import has_batch_norm
        from wsss.models.vision_transformer import is_vision_transformer

        if self.norm == "frozen" or not is_vision_transformer(self.encoder):
            return
        if self.norm == "batch" and has_batch_norm(network):
            return
        raise ValueError(
            f"norm = {self.norm!r}: the norms of encoder {self.encoder!r} keep no statistics, and a decoder's "
            "BatchNorm is synchronised with 'frozen' too; set norm = 'frozen'"
        )

    def on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`image`, u8[B, H, W, 3], normalised to f32[B, 3, H, W]."""
        from wsss.data.images import normalised

        return {**batch, "image": normalised(batch["image"], mean=self.mean, std=self.std)}

    def first_encoder(self, instance: Instance, *, pretrained: bool) -> Encoder:
        """The encoder that training starts from; random if trained weights are loaded later (`pretrained` false).

        Raises: ValueError if the encoder's settings do not match the classifier's.
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
