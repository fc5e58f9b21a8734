from __future__ import annotations

import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPPPooling

import wsss
from tests.wsss.use.made_models import CLASSES, draw_folder, segmenter
from wsss.use.export_smp import Agreement, export_smp
from wsss.use.model_file import read_segmenter

pytestmark = pytest.mark.slow
USE = "this test"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("pictures"), {f"{n}.png": (48 + n, 64 - n) for n in range(9)})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> tuple[Path, Path, Agreement]:
    """The weights, the folder that was made of them, and what the export says about it."""
    folder = tmp_path_factory.mktemp("exported")
    path = segmenter(folder / "s.safetensors", output_stride=8)
    return path, folder / "smp", export_smp(read_segmenter(path, use=USE), folder / "smp", pictures=pictures)


def test_smp_loads_the_folder_strictly_and_predicts_the_same(exported: tuple[Path, Path, Agreement]) -> None:
    path, folder, found = exported
    network = smp.from_pretrained(str(folder), strict=True).eval()
    assert type(network).__name__ == "DeepLabV3Plus" and network.encoder.output_stride == 8
    ours = wsss.load(path).network
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        features = network.encoder(image)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(features, ours.network.encoder(image), strict=True))
        same = (network(image).argmax(1) == ours(image).argmax(1)).float().mean()
    assert found.pictures == 9 and found.same_pixels > 0.95 and same > 0.9
    config = json.loads((folder / "config.json").read_bytes())
    assert config["_wsss"]["class_names"] == ["background", *CLASSES]
    card = (folder / "README.md").read_text()
    assert "| 3 | sheep |" in card and "with image-level labels only" in card


def test_only_the_norm_of_the_image_pooling_differs(exported: tuple[Path, Path, Agreement]) -> None:
    path, folder, _ = exported
    theirs = smp.from_pretrained(str(folder)).eval()
    ours = wsss.load(path).network.network
    pooling = next(name for name, module in ours.named_modules() if isinstance(module, ASPPPooling))
    known = ours.state_dict()
    changed = {
        name for name, value in theirs.state_dict().items() if not torch.equal(value, known.get(name, value + 1))
    }
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in changed} == {pooling}


def test_the_fitted_norm_is_the_best_line_per_channel(tmp_path: Path, pictures: Path) -> None:
    """No other slope or offset of a channel comes nearer to the GroupNorm's outputs."""
    from wsss.models.plain_smp import _fitted, _pooling_norm

    network = wsss.load(segmenter(tmp_path / "s.safetensors")).network
    _, norm = _pooling_norm(network.network)
    images = [torch.randn(1, 3, 32 + 8 * n, 40, generator=torch.Generator().manual_seed(n)) for n in range(7)]
    before, after = [], []

    def keep(_: torch.nn.Module, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        before.append(given[0].flatten())
        after.append(made.flatten())

    norm.register_forward_hook(keep)
    plain = torch.nn.BatchNorm2d(norm.num_channels)
    with torch.inference_mode():
        plain.load_state_dict(_fitted(network, images, like=plain))
        x, y = torch.stack(before), torch.stack(after)
        made = plain.eval()(x[..., None, None])[..., 0, 0]
    for channel in range(x.shape[1]):
        design = torch.stack([x[:, channel], torch.ones(len(x))], 1).double()
        best = design @ torch.linalg.lstsq(design, y[:, channel, None].double()).solution
        assert torch.allclose(made[:, channel].double(), best[:, 0], atol=1e-4)


def test_networks_that_smp_cannot_build(tmp_path: Path, pictures: Path) -> None:
    for changes, message in (
        ({"network": "aspp", "output_stride": 8}, "network = 'aspp': segmentation_models_pytorch has no such network"),
        ({"dilated": False}, "dilated = False"),
    ):
        path = segmenter(tmp_path / "s.safetensors", **changes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            export_smp(read_segmenter(path, use=USE), tmp_path / "smp", pictures=pictures)
    path = segmenter(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="has 2 readable pictures; at least 4"):
        few = draw_folder(tmp_path / "few", {"a.png": (40, 40), "b.png": (40, 40)})
        export_smp(read_segmenter(path, use=USE), tmp_path / "smp", pictures=few)
    (tmp_path / "smp").mkdir()
    with pytest.raises(ValueError, match="exists; name a new folder"):
        export_smp(read_segmenter(path, use=USE), tmp_path / "smp", pictures=pictures)
