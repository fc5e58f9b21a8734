"""Encoders: output grids, strides left out without dilation, weight files, and refusals that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wsss.models.encoder import STRIDED_FAMILIES, EncoderSpec, build_encoder
from wsss.models.norm import freeze_batch_norm

WEIGHTS = Path(__file__).parents[4] / "shared" / "weights"


def _spec(name: str = "resnet10t", **settings: Any) -> EncoderSpec:
    defaults: dict[str, Any] = {"output_stride": 16, "dilated": False, "pretrained": "none"}
    return EncoderSpec(name=name, **(defaults | settings))


def _weights(name: str) -> str:
    path = WEIGHTS / name
    if not path.is_file():
        pytest.skip(f"no {name} in ../shared/weights")
    return str(path)


@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv2_035"])
def test_grids_and_channels(name: str, output_stride: int, dilated: bool) -> None:
    encoder = build_encoder(_spec(name, output_stride=output_stride, dilated=dilated)).eval()
    height, width = 67, 97
    with torch.no_grad():
        image = torch.randn(1, 3, height, width)
        features, pyramid = encoder(image), encoder.pyramid(image)
    assert features.shape == (1, encoder.num_features, -(-height // output_stride), -(-width // output_stride))
    assert encoder.pyramid_strides == tuple(min(2**level, output_stride) for level in range(1, 6))
    expected = [
        (channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(encoder.pyramid_channels, encoder.pyramid_strides, strict=True)
    ]
    assert [tuple(level.shape[1:]) for level in pyramid] == expected


@pytest.mark.parametrize(("name", "pad_type"), [("resnet10t", ""), ("mobilenetv2_035", "same"), ("mobileone_s0", "")])
def test_dilation_is_in_place_of_strides_only_where_asked(name: str, pad_type: str) -> None:
    dilated = build_encoder(_spec(name, dilated=True, pad_type=pad_type, output_stride=8))
    undilated = build_encoder(_spec(name, dilated=False, pad_type=pad_type, output_stride=8))
    convolutions = [layer for layer in undilated.modules() if isinstance(layer, nn.Conv2d)]
    assert {layer.dilation for layer in convolutions} == {(1, 1)}
    if name != "mobileone_s0":  # timm gives its branches no dilation in the first place
        assert any(layer.dilation > (1, 1) for layer in dilated.modules() if isinstance(layer, nn.Conv2d))
    image = torch.randn(1, 3, 65, 49)
    with torch.no_grad():
        assert undilated.eval()(image).shape == dilated.eval()(image).shape == (1, undilated.num_features, 9, 7)


def test_a_stride_left_out_computes_the_native_map_between_its_own_pixels() -> None:
    """The 3x3 layer that lost its stride has the values of the strided one at every second pixel, others between."""
    encoder = build_encoder(_spec("resnet10t", dilated=False)).eval()
    native = build_encoder(_spec("resnet10t", dilated=False, output_stride=32)).eval()
    native.load_state_dict(encoder.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        # Up to stage 3 nothing differs; the strided first convolution of stage 4 samples every second pixel.
        stage3 = encoder.pyramid(image)[3]
        dense = encoder.network.layer4[0].conv1(stage3)
        strided = native.network.layer4[0].conv1(native.pyramid(image)[3])
    torch.testing.assert_close(dense[..., ::2, ::2], strided)


def test_dilation_of_the_design_survives() -> None:
    encoder = build_encoder(_spec("skresnet18", dilated=False, output_stride=8))
    native = timm.create_model("skresnet18", num_classes=0, global_pool="")
    native_dilations = {name: layer.dilation for name, layer in native.named_modules() if isinstance(layer, nn.Conv2d)}
    assert (2, 2) in native_dilations.values()
    layers = encoder.network.named_modules()
    assert {name: layer.dilation for name, layer in layers if isinstance(layer, nn.Conv2d)} == native_dilations


def test_stochastic_depth_reaches_the_network() -> None:
    names = [type(layer).__name__ for layer in build_encoder(_spec(drop_path=0.2)).modules()]
    assert "DropPath" in names
    assert "DropPath" not in [type(layer).__name__ for layer in build_encoder(_spec()).modules()]


def test_mobilenet_weights_give_what_timm_gives() -> None:
    path = _weights("mobilenetv2_100.safetensors")
    spec = _spec("mobilenetv2_100", output_stride=32, pretrained=path, pad_type="same")
    whole = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    whole.load_state_dict(load_file(path), strict=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(build_encoder(spec).eval()(image), whole.forward_features(image), rtol=0, atol=0)


def test_mobilenet_at_stride_16_has_1280_channels() -> None:
    spec = _spec("mobilenetv2_100", pretrained=_weights("mobilenetv2_100.safetensors"), pad_type="same")
    encoder = build_encoder(spec).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 250, 187)).shape == (1, 1280, 16, 12)
    assert encoder.num_features == 1280
    assert encoder.pyramid_channels == (16, 24, 32, 96, 320)


def test_reparameterised_weights_give_what_timm_gives() -> None:
    path = _weights("mobileone_s0_reparam.safetensors")
    spec = _spec("mobileone_s0", output_stride=32, pretrained=path, reparameterised=True)
    whole = timm.utils.reparameterize_model(timm.create_model("mobileone_s0").eval())
    whole.load_state_dict(load_file(path), strict=True)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(build_encoder(spec).eval()(image), whole.forward_features(image), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"missing \(stem\.conv_kxk.*unexpected \(.*reparam_conv.* more\)"):
        build_encoder(_spec("mobileone_s0", pretrained=path))


def test_weight_file_with_a_classifier_loads_and_a_wrong_one_names_its_keys(tmp_path: Path) -> None:
    whole = timm.create_model("resnet10t", num_classes=17)
    state = {key: value.contiguous() for key, value in whole.state_dict().items()}
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_file(state, good)
    loaded = build_encoder(_spec(pretrained=str(good))).network.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert set(state) - set(loaded) == {"fc.weight", "fc.bias"}

    del state["layer1.0.conv1.weight"]
    state["bn1.weight"] = torch.ones(3)
    save_file(state | {"stray": torch.ones(1)}, bad)
    with pytest.raises(ValueError) as caught:
        build_encoder(_spec(pretrained=str(bad)))
    for part in (
        str(bad),
        "encoder 'resnet10t'",
        "1 missing (layer1.0.conv1.weight)",
        "1 unexpected (stray)",
        "1 of another shape (bn1.weight [3] where [64] is expected)",
    ):
        assert part in str(caught.value)


def test_weights_of_older_files_without_batch_counters_load(tmp_path: Path) -> None:
    state = timm.create_model("resnet10t", num_classes=0).state_dict()
    path = tmp_path / "old.safetensors"
    save_file({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, path)
    build_encoder(_spec(pretrained=str(path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "mobilenet_v2_100"}, r"unknown encoder 'mobilenet_v2_100'; did you mean .*mobilenetv2_100"),
        ({"name": "qqqqqqqqqqqqqqq"}, r"unknown encoder 'qqqqqqqqqqqqqqq'; see timm\.list_models\(\)"),
        ({"name": "vgg16_bn"}, r"encoder 'vgg16_bn' does not support output_stride = 16"),
        ({"name": "mixer_s16_224"}, r"'mixer_s16_224' does not support output_stride = 16"),
        (
            {"name": "densenet121"},
            r"output_stride = 16; .* = 32 leaves it as it is; resnet.* do, as do timm's",
        ),
        ({"name": "mixer_s16_224", "output_stride": 32}, r"has output stride 16; it cannot be 32"),
        ({"name": "convnext_atto", "output_stride": 8}, r"dilated = False is impossible here: .* set dilated = True"),
        ({"name": "resnet10t", "pad_type": "same"}, r"does not support pad_type = 'same'"),
        ({"name": "resnet10t", "reparameterised": True}, r"has no branches to fuse; set reparameterised = False"),
        ({"name": "resnet10t", "pretrained": "weights.pth"}, r"'weights\.pth': allowed are .*\.safetensors file"),
        (
            {"name": "resnet10t", "pretrained": "nowhere.safetensors"},
            r"pretrained = 'nowhere\.safetensors' does not exist",
        ),
        ({"name": "test_byobnet", "pretrained": "none", "output_stride": 4}, r"output_stride is 4; allowed: 8, 16, 32"),
        ({"name": "resnet10t", "pad_type": "valid"}, r"pad_type is 'valid'; allowed"),
        ({"name": "resnet10t", "drop_path": 1.0}, r"drop_path is 1\.0; allowed: at least 0 and below 1"),
    ],
)
def test_refusals_say_what_came_and_what_to_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_encoder(_spec(**settings))


def test_imagenet_weights_come_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    create_model = timm.create_model

    def without_network(name: str, pretrained: bool = False, **arguments: Any) -> Any:
        asked.append(pretrained)
        return create_model(name, pretrained=False, **arguments)

    monkeypatch.setattr(timm, "create_model", without_network)
    build_encoder(_spec(pretrained="imagenet", output_stride=32))
    assert asked == [True]
    untrained = next(name for name in timm.list_models("resnet*") if not timm.is_model_pretrained(name))
    with pytest.raises(ValueError, match=f"timm has no weights for '{untrained}'"):
        build_encoder(_spec(untrained, pretrained="imagenet"))


@pytest.mark.parametrize("family", timm.list_modules())
def test_families_that_are_named_take_an_output_stride_and_no_other_does(family: str) -> None:
    """One network of each of timm's modules, without memory for its weights."""
    with torch.device("meta"):
        try:
            network = timm.create_model(
                timm.list_models(module=family)[0], num_classes=0, global_pool="", output_stride=8
            )
            takes = network.feature_info[-1]["reduction"] == 8
        except (TypeError, AssertionError, NotImplementedError):
            takes = False
    assert takes == (family in STRIDED_FAMILIES)


def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        torch.manual_seed(3)
        encoder = build_encoder(_spec("test_resnet", dilated=True)).train()
        freeze_batch_norm(encoder)
        if again:
            encoder.checkpoint_activations()
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            features = encoder(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        features.square().mean().backward()
        gradients.append(([p.grad.clone() for p in encoder.parameters() if p.grad is not None], sum(kept)))
    (plain, memory), (recomputed, less) = gradients
    assert len(plain) == len(recomputed) > 5 and less < 0.8 * memory
    for wanted, found in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match="activation_checkpointing = True: timm does not support it for this encoder"):
        build_encoder(_spec("vgg16_ficklenet", output_stride=8, dilated=True)).checkpoint_activations()


@pytest.mark.parametrize("name", ["mobilenetv2_100", "vgg16_npa"])
def test_weights_that_cannot_be_downloaded_name_the_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("the Hub cannot be reached\nsecond line")

    monkeypatch.setattr("timm.create_model", offline)
    expected = rf"pretrained = 'imagenet': .* of '{name}' \(the Hub cannot be reached\); give the path of"
    strides: dict[str, Any] = {"output_stride": 8, "dilated": True} if name == "vgg16_npa" else {}
    with pytest.raises(ValueError, match=expected):
        build_encoder(_spec(name, pretrained="imagenet", **strides))
