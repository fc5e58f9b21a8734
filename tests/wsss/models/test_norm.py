"""Frozen batch normalisation neither follows the batch nor the optimiser, and keeps its keys and its activation."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from wsss.models.norm import freeze_batch_norm


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 7, 1), BatchNormAct2d(7, act_layer=nn.ReLU)
    )
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for key, value in layer.state_dict().items():
                if key != "num_batches_tracked":
                    nn.init.uniform_(value, *((0.5, 2.0) if key == "running_var" else (-1.0, 1.0)))
    return network


def test_output_in_training_mode_is_that_of_evaluation_before() -> None:
    network, image = _network(), torch.randn(2, 3, 11, 13)
    expected = network.eval()(image)
    assert freeze_batch_norm(network) == 2
    network.train()
    assert network[0].training
    torch.testing.assert_close(network(image), expected, rtol=0, atol=0)
    assert (expected >= 0).all(), "the activation of BatchNormAct2d is part of the layer"


def test_training_moves_neither_statistics_nor_affine_terms() -> None:
    network = _network()
    freeze_batch_norm(network)
    network.train().requires_grad_(True)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    network(torch.randn(2, 3, 11, 13)).square().mean().backward()
    optimiser.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"0.weight", "2.weight", "2.bias"}


def test_state_dict_keys_stay_and_load_both_ways() -> None:
    plain, frozen = _network(), _network()
    freeze_batch_norm(frozen)
    assert plain.state_dict().keys() == frozen.state_dict().keys()
    frozen.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(frozen.state_dict(), strict=True)


def test_freezing_twice_is_freezing_once_and_a_bare_layer_freezes_too() -> None:
    layer = nn.BatchNorm2d(3)
    assert freeze_batch_norm(layer) == freeze_batch_norm(layer) == 1
    assert not list(layer.parameters())
    assert not layer.train().training


def test_kinds_that_cannot_be_frozen_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0 is a SyncBatchNorm; only BatchNorm2d, BatchNormAct2d can be frozen"):
        freeze_batch_norm(nn.Sequential(nn.SyncBatchNorm(3)))
    with pytest.raises(ValueError, match=r"0 keeps no running statistics"):
        freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
