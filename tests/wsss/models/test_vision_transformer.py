"""Vision transformers as encoders: patch tokens as maps, on any size of image, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from wsss.models.classifier import Classifier
from wsss.models.deeplab_heads import DeepLab, build_deeplab
from wsss.models.encoder import EncoderSpec, build_encoder, check_encoder
from wsss.models.inference import for_inference
from wsss.models.layer_gradients import LayerGradients
from wsss.models.stage_gradients import StageGradients
from wsss.models.vision_transformer import TransformerEncoder
from wsss.ops.cam import class_activation_map
from wsss.plan.networks import _counted
from wsss.tasks.classification import ClassificationTask, Objective

SMALL = "test_vit"
"""64 channels, 6 blocks, made for images of 160 x 160 pixels."""
NAMES = [SMALL, "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"]
SIZES = [(64, 64), (32, 64), (33, 50), (16, 40)]


def spec(name: str = SMALL, **settings: Any) -> EncoderSpec:
    defaults: dict[str, Any] = {"output_stride": 16, "dilated": False, "pretrained": "none"}
    return EncoderSpec(name=name, **(defaults | settings))


def encoder(name: str = SMALL, **settings: Any) -> TransformerEncoder:
    torch.manual_seed(1)
    made = build_encoder(spec(name, **settings)).eval()
    assert isinstance(made, TransformerEncoder)
    return made


def image(size: tuple[int, int] = (33, 50), *, number: int = 2) -> torch.Tensor:
    return torch.randn(number, 3, *size, generator=torch.Generator().manual_seed(2))


def tokens_by_definition(made: TransformerEncoder, image_B3HW: torch.Tensor) -> list[torch.Tensor]:
    """The tokens after every block, and after the last norm: patches cut by slices, embedded as vectors."""
    network = made.network
    rows, columns = (-(-side // 16) for side in image_B3HW.shape[-2:])
    padded = torch.zeros(len(image_B3HW), 3, 16 * rows, 16 * columns)
    padded[..., : image_B3HW.shape[2], : image_B3HW.shape[3]] = image_B3HW
    kernel = network.patch_embed.proj.weight.flatten(1)
    patches = [
        padded[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16].flatten(1) @ kernel.T
        for row in range(rows)
        for column in range(columns)
    ]
    others = [network.cls_token] + ([network.dist_token] if hasattr(network, "dist_token") else [])
    side = network.patch_embed.grid_size[0]
    grid = network.pos_embed[:, len(others) :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    positions = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True, align_corners=False)
    tokens = torch.stack(patches, 1) + network.patch_embed.proj.bias + positions.flatten(2).transpose(1, 2)
    first = torch.cat(others, 1) + network.pos_embed[:, : len(others)]
    tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], 1)
    found = []
    for block in network.blocks:
        tokens = block(tokens)
        found.append(tokens)
    return [*found, network.norm(tokens)]


def map_by_definition(tokens: torch.Tensor, *, others: int, rows: int, columns: int) -> torch.Tensor:
    made = torch.empty(len(tokens), tokens.shape[2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            made[:, :, row, column] = tokens[:, others + row * columns + column]
    return made


@pytest.mark.parametrize("size", SIZES)
def test_maps_are_the_patch_tokens_of_the_networks_own_blocks(size: tuple[int, int]) -> None:
    made, picture = encoder(), image(size)
    grid = {"rows": -(-size[0] // 16), "columns": -(-size[1] // 16)}
    with torch.no_grad():
        *after, normalised = tokens_by_definition(made, picture)
        last, pyramid = made.last_and_pyramid(picture)
        expected = map_by_definition(normalised, others=1, **grid)
        torch.testing.assert_close(made(picture), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
        assert last.shape == (2, made.num_features, grid["rows"], grid["columns"])
        # Six blocks: quarters end after blocks 1, 3, 4 and 6.
        for found, index in zip(pyramid[:3], (0, 2, 3), strict=True):
            by_hand = map_by_definition(after[index], others=1, **grid)
            torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-5)
        assert torch.equal(pyramid[3], last) and not made.ends_beyond_pyramid
        assert all(map(torch.equal, made.pyramid(picture), pyramid))


@pytest.mark.parametrize("name", NAMES[1:])
def test_class_and_distillation_tokens_are_left_out(name: str) -> None:
    made, picture = encoder(name), image()
    others = 2 if "distilled" in name else 1
    with torch.no_grad():
        expected = map_by_definition(tokens_by_definition(made, picture)[-1], others=others, rows=3, columns=4)
        torch.testing.assert_close(made(picture), expected, rtol=1e-4, atol=1e-5)
    assert made.pyramid_channels == (192,) * 4 and made.pyramid_strides == (16,) * 4


def test_register_tokens_are_left_out_and_take_part_in_the_attention() -> None:
    torch.manual_seed(1)
    network = timm.create_model(SMALL, num_classes=0, reg_tokens=3, dynamic_img_pad=True).eval()
    made, picture = TransformerEncoder(network), image((32, 48))
    with torch.no_grad():
        network.reg_token.normal_()
        before = made(picture)
        assert before.shape == (2, 64, 2, 3)
        torch.testing.assert_close(before[0, :, 1, 2], network.forward_features(picture)[0, 4 + 5])
        network.reg_token.neg_()
        assert (made(picture) - before).abs().max() > 1e-4


def test_gradients_reach_all_parameters() -> None:
    for name in (SMALL, "deit_tiny_distilled_patch16_224"):
        made = encoder(name).train()
        made(image((32, 48))).square().sum().backward()
        without = [key for key, value in made.named_parameters() if value.grad is None or not value.grad.any()]
        assert without == []


def test_a_step_of_a_classifiers_training_moves_all_parameters_and_lowers_the_loss() -> None:
    network = Classifier(encoder(), num_classes=4, head="linear")
    task = ClassificationTask(network, objective=Objective(loss="bce"), synchronise_norms=False).train()
    target = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
    batch = {"image": image((48, 40)), "target": target, "known": torch.ones(2, 4)}
    optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
    before = [value.detach().clone() for value in task.parameters()]
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        term = task(batch).terms["classification"]
        (term.numerator / term.count).backward()
        losses.append(float(term.numerator.detach()))
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not any(torch.equal(one, other) for one, other in zip(before, task.parameters(), strict=True))


def test_checkpointed_activations_give_the_same_gradients() -> None:
    plain, checkpointed = encoder().train(), encoder().train()
    checkpointed.checkpoint_activations()
    for made in (plain, checkpointed):
        last, pyramid = made.last_and_pyramid(image((32, 48)))
        (made(image((32, 48))).square().sum() + last.sum() + pyramid[1].square().sum()).backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(other.grad, one.grad)


def test_stochastic_depth_is_in_the_blocks() -> None:
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder(drop_path=0.3).network.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3)


def test_activation_maps_are_the_weights_times_the_tokens() -> None:
    """CAM by loops over rows, columns and channels; its mean is the logit, because the head pools the same tokens."""
    network, picture = Classifier(encoder(), num_classes=4, head="linear").eval(), image((33, 50), number=1)
    with torch.no_grad():
        tokens = tokens_by_definition(network.encoder, picture)[-1][0, 1:]  # type: ignore[arg-type]
        features = network.features(picture)
        raw = torch.zeros(3, 4)
        for row in range(3):
            for column in range(4):
                for channel in range(64):
                    raw[row, column] += network.cam_weights[2, channel] * tokens[row * 4 + column, channel]
        found = class_activation_map(features[0], weights_CD=network.cam_weights, classes=[3])
        torch.testing.assert_close(found[0], raw.relu(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(network(picture)[0, 2], raw.mean(), rtol=1e-3, atol=1e-5)
    view = LayerGradients(network, layer="last")(picture, classes=[[3]])
    (gradient,) = list(view.gradients)
    torch.testing.assert_close(gradient[0], network.cam_weights[2, :, None, None].expand(-1, 3, 4) / 12)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks.3", r"layer 'blocks.3' gives tokens, not a map .* only the layer 'last'"),
        ("patch_embed", r"layer 'patch_embed' gives tokens"),
        ("blocks.77", r"has no layer 'blocks.77'; a vision transformer has only the layer 'last'"),
    ],
)
def test_other_layers_are_refused(layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerGradients(Classifier(encoder(), num_classes=4, head="linear"), layer=layer)


def test_gradients_in_the_stages_are_how_much_a_logit_changes() -> None:
    """Each gradient against a difference quotient: tokens of one patch are moved between two blocks."""
    network, picture = Classifier(encoder(), num_classes=4, head="linear").double().eval(), image((32, 48)).double()
    view = StageGradients(network, finest_stride=4)(picture, classes=[[2], [1]])
    (found,) = list(view.gradients)
    assert [tuple(one.shape) for one in found] == [(2, 64, 2, 3)] * 3
    torch.testing.assert_close(view.last, network.features(picture).detach())
    direction, step = torch.randn(64, generator=torch.Generator().manual_seed(5)).double(), 1e-5
    for place, index in enumerate((0, 2, 3)):
        logits = []
        for sign in (step, -step):

            def move(_block: Any, _inputs: Any, tokens: torch.Tensor, by: float = sign) -> torch.Tensor:
                moved = tokens.clone()
                moved[:, 1 + 4] += by * direction  # row 1, column 1
                return moved

            handle = network.encoder.network.blocks[index].register_forward_hook(move)
            with torch.no_grad():
                logits.append(network(picture))
            handle.remove()
        for number, column in enumerate((1, 0)):
            quotient = (logits[0] - logits[1])[number, column] / (2 * step)
            torch.testing.assert_close(found[place][number, :, 1, 1] @ direction, quotient, rtol=1e-4, atol=1e-9)
            assert quotient.abs() > 1e-6


def test_networks_that_are_only_read_give_the_same_maps_and_gradients() -> None:
    network = Classifier(encoder(), num_classes=4, head="linear").eval()
    made = for_inference(network, look=lambda one, images: one.stages(images, finest_stride=4)[0], gradients=True)
    picture = image((75, 106))
    with torch.no_grad():
        expected = network.features(picture)
        torch.testing.assert_close(made.features(picture), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    wanted, found = (StageGradients(one, finest_stride=16)(picture, classes=[[2], [3]]) for one in (network, made))
    for one, other in zip(next(wanted.gradients), next(found.gradients), strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("name", [SMALL, "deit_tiny_distilled_patch16_224"])
def test_a_weight_file_with_timms_names_is_loaded_without_its_classifiers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole, path = timm.create_model(name).eval(), tmp_path / "weights.safetensors"
    save_file(whole.state_dict(), path)
    picture = image(whole.patch_embed.img_size, number=1)
    check_encoder(spec(name, pretrained=str(path)), mean=(0.5,) * 3, std=(0.5,) * 3)
    made = encoder(name, pretrained=str(path))
    with torch.no_grad():
        tokens = whole.forward_features(picture)[:, whole.num_prefix_tokens :]
        torch.testing.assert_close(made(picture).flatten(2).transpose(1, 2), tokens)
    del (short := whole.state_dict())["norm.weight"]
    save_file(short, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match=r"short.safetensors' does not fit encoder .* 1 missing \(norm.weight\)"):
        check_encoder(spec(name, pretrained=str(tmp_path / "short.safetensors")), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_timms_weights_need_their_own_normalisation() -> None:
    with pytest.raises(ValueError, match=r"weights of 'vit_tiny_patch16_224' need mean = \[0.5, 0.5, 0.5\]"):
        check_encoder(
            spec("vit_tiny_patch16_224", pretrained="imagenet"), mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.2)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_stride": 8}, r"output_stride is 8; encoder 'test_vit' allows only output_stride = 16"),
        ({"output_stride": 32}, r"output_stride is 32; encoder 'test_vit' allows only output_stride = 16"),
        ({"dilated": True}, r"dilated is True; encoder 'test_vit' allows only dilated = False"),
        ({"pad_type": "same"}, r"pad_type is 'same'; encoder 'test_vit' allows only pad_type = ''"),
        ({"reparameterised": True}, r"reparameterised is True; encoder 'test_vit' allows only reparameterised = False"),
        ({"name": "vit_small_patch8_224"}, r"encoder 'vit_small_patch8_224' has patches of 8 x 8 pixels; choose .*16"),
        ({"name": "test_vit2"}, r"encoder 'test_vit2' has its last norm after the pooling"),
        ({"name": "test_vit3"}, r"encoder 'test_vit3' pools its tokens by attention"),
    ],
)
def test_other_settings_and_networks_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_encoder(spec(**settings), mean=(0.5,) * 3, std=(0.5,) * 3)


def test_images_smaller_than_a_patch_and_frozen_stages_are_refused() -> None:
    made = encoder()
    for read in (made.forward, made.pyramid):
        with pytest.raises(ValueError, match=r"an image of 15 x 40 pixels is smaller than a patch .* crop_size"):
            read(image((15, 40)))
    made.freeze_stages(up_to_stride=1)
    assert all(parameter.requires_grad for parameter in made.parameters())
    with pytest.raises(ValueError, match=r"frozen_stride = 4: .* set frozen_stride = 1"):
        made.freeze_stages(up_to_stride=4)


def test_the_heads_of_deeplab_read_the_patches_as_cells() -> None:
    torch.manual_seed(1)
    network = build_deeplab(spec(), num_classes=3, rates=(12,), hidden=8).eval()
    assert isinstance(network, DeepLab)
    with torch.no_grad():
        assert network(image((32, 48))).shape == (2, 3, 32, 48)
    network.corner_to_corner = True
    with pytest.raises(
        ValueError, match=r"patches of a vision transformer tile the image.*crop_size .* multiple of 16"
    ):
        network(image((33, 49)))


def test_the_planned_operations_are_those_of_the_formula() -> None:
    """Multiplications and additions of an embedding, six blocks (projections, attention, two layers of width 3 D)."""
    with torch.device("meta"):
        made = build_encoder(spec())
    patches, tokens, width = 4 * 3, 4 * 3 + 1, 64
    projections = 2 * tokens * width * (3 * width + width)
    attention = 2 * 2 * tokens**2 * width
    layers = 2 * 2 * tokens * width * 3 * width
    expected = 2 * patches * 3 * 16**2 * width + 6 * (projections + attention + layers)
    assert _counted(lambda: made(torch.zeros(1, 3, 64, 48, device="meta"))) == expected
