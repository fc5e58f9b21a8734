"""The settings shared by all stages that train a segmentation network: architecture, crops and augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from wsss.contract.settings import DefaultBy, active_unless, active_with, resolved, settings
from wsss.contract.stage import Instance
from wsss.data.augment import Augmentation, SizeRange, fill_colour
from wsss.data.joined_records import JoinedRecords
from wsss.stages.classifier.mapped_classes import mapped_classes
from wsss.stages.settings.encoder import EncoderSource

if TYPE_CHECKING:
    from wsss.models.deeplab_heads import DeepLab
    from wsss.models.segmenter import Segmenter

_DECODER = ("network", "decoder_channels", "head_channels", "aspp_rates")
ARCHITECTURE = ("encoder", *_DECODER, "output_stride", "dilated", "pad_type", "reparameterised")
"""Settings that must be equal in two stages for the weights of one to fit the other."""
_ASPP_RATES = {8: (12, 24, 36), 16: (6, 12, 18)}
"""Output stride -> default of `aspp_rates`."""
_Rate = Annotated[int, Field(ge=1)]


@settings
class SegmenterTraining(EncoderSource):
    """Trains DeepLabv3+, or an earlier DeepLab, on crops."""

    network: Annotated[Literal["deeplabv3plus", "largefov", "aspp"], active_unless("network", "deeplabv3plus")] = (
        "deeplabv3plus"
    )
    """`deeplabv3plus`, or one of DeepLab's earlier heads, as DSRG and FickleNet use on VGG16 at output stride 8:
    `largefov`, `aspp`. At output stride 16 they have half the dilations: the same distances in the image."""
    decoder_channels: Annotated[int, Field(ge=8), active_with("network", "deeplabv3plus")] = 256
    """deeplabv3plus: channels of the ASPP branches and the decoder."""
    head_channels: Annotated[
        int, Field(ge=8), active_with("network", "largefov", "aspp"), active_unless("head_channels", 1024)
    ] = 1024
    """largefov, aspp: channels of the two hidden layers of every branch; 1024 as published."""
    aspp_rates: Annotated[
        tuple[_Rate, _Rate, _Rate] | None,
        active_with("network", "deeplabv3plus"),
        DefaultBy(lambda stage: _ASPP_RATES.get(stage.output_stride)),
    ] = None
    """deeplabv3plus: dilations of the three ASPP branches, in pixels of the last feature map. If not given, 6, 12, 18
    at output stride 16 and 12, 24, 36 at output stride 8, as published: the same distances in the image."""
    dropout: Annotated[float, Field(ge=0, lt=1), active_unless("dropout", 0.5)] = 0.5
    """Dropout probability of the head's features (NoPeopleAllowed: 0.1)."""
    max_shards: Annotated[Annotated[int, Field(ge=1)] | None, active_unless("max_shards", None)] = None
    """Train on at most this many shards of the training split, starting with the first; all of them if not given."""
    crop_size: Annotated[int, Field(ge=32)] = 352
    """Side of the training crops in pixels."""
    resize_long: SizeRange = (256, 704)
    """Range from which the longer side is drawn before cropping, in pixels."""
    augmentation: Annotated[Literal["weak", "strong"], active_unless("augmentation", "weak")] = "weak"
    """`weak`: random scale, flip, crop and colours; `strong`: also rotation, elastic deformation, noise, and changes of
    tone and sharpness (NoPeopleAllowed's list)."""
    colour_jitter: Annotated[float, Field(ge=0, le=1), active_with("augmentation", "weak")] = 0.2
    """weak: strength of random colour changes; 0 makes none."""

    def own_revision(self) -> int:
        """One later with cross-fitting of the first shards: `max_shards` once counted the shards of its own folds."""
        return self.revision + (self.folds > 1 and self.max_shards is not None)

    def learned_classes(self, instance: Instance) -> frozenset[int] | None:
        """Behind image-level labels, the classes that have maps."""
        return mapped_classes(instance) if self.supervision() == "image" else None

    def check(self, instance: Instance) -> None:
        super().check(instance)
        if self.output_stride == 32:
            raise ValueError(
                f"{instance.name}.output_stride = 32: network = {self.network!r} needs features of stride 8 or 16; set "
                "output_stride = 8 or 16"
            )

    def segmenter(self, instance: Instance, *, pretrained: bool) -> Segmenter | DeepLab:
        """The segmentation network; `pretrained` loads the encoder's initial weights."""
        from wsss.models.deeplab_heads import ASPP_RATES, LARGE_FOV_RATES, build_deeplab
        from wsss.models.norm import freeze_batch_norm
        from wsss.models.segmenter import build_segmenter

        spec, num_classes = self.encoder_spec(pretrained=False), len(instance.taxonomy) + 1
        encoder = self.first_encoder(instance, pretrained=pretrained)
        network: Segmenter | DeepLab
        if self.network == "deeplabv3plus":
            network = build_segmenter(
                spec,
                encoder=encoder,
                num_classes=num_classes,
                decoder_channels=self.decoder_channels,
                atrous_rates=resolved(self, "aspp_rates"),
                dropout=self.dropout,
            )
        else:
            rates = LARGE_FOV_RATES if self.network == "largefov" else ASPP_RATES
            network = build_deeplab(
                spec,
                encoder=encoder,
                num_classes=num_classes,
                rates=rates,
                hidden=self.head_channels,
                dropout=self.dropout,
            )
        if self.norm == "frozen":
            freeze_batch_norm(network.encoder)
        return network

    @property
    def synchronise_norms(self) -> bool:
        """True if the decoder's normalisation layers are synchronised over ranks. They are never frozen, because the
        decoder is initialised randomly."""
        return self.norm != "batch"

    def joined(
        self, instance: Instance, slots: Iterable[str], *, lanes: int, keep: Callable[[str], bool] | None = None
    ) -> JoinedRecords:
        """Training records of these slots, from the first `max_shards` shards."""
        return JoinedRecords(
            {slot: instance.inputs[slot].layer for slot in slots},
            split="train",
            seed=instance.seed,
            lanes=lanes,
            max_shards=self.max_shards,
            keep=keep,
        )

    def changes(self) -> Augmentation:
        """The random augmentation of training images."""
        return Augmentation(
            crop_size=self.crop_size,
            resize_long=self.resize_long,
            colour_jitter=self.colour_jitter,
            fill=fill_colour(self.mean),
            strong=self.augmentation == "strong",
        )

    def require_same_architecture(self, instance: Instance, other: Instance) -> None:
        """Raises: ValueError if the weights of `other` do not fit this network."""
        for setting in ARCHITECTURE:
            own, its = resolved(self, setting), resolved(other.stage, setting)
            if own != its:
                raise ValueError(
                    f"{instance.name}.{setting} = {own!r}, but it starts with the weights of {other.name}, which has "
                    f"{its!r}; set the same value"
                )


def require_same_colours(instance: Instance, other: Instance) -> None:
    """Raises: ValueError if `other`, which gets the same batches, was trained with another mean or std."""
    for setting in ("mean", "std"):
        own, its = getattr(instance.stage, setting), getattr(other.stage, setting)
        if own != its:
            raise ValueError(
                f"{instance.name}.{setting} = {own!r}, but {other.name}, which gets the same images, was trained with "
                f"{its!r}; set the same value"
            )


def require_masks(instance: Instance, split: str, *, wanted: str) -> None:
    """Raises: ValueError if the data set's settings exclude masks of a split. `wanted`: the setting that needs them."""
    if reason := instance.data.why_no_masks(split):
        raise ValueError(
            f"{wanted} of split {split!r}, but no masks of {instance.samples.name} are read: {reason}; set it, or "
            f"remove {wanted.partition(' = ')[0]}"
        )
