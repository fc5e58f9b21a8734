"""The moving average of a network, against its definition."""

from __future__ import annotations

import torch
from torch import nn

from wsss.tasks.teacher import Teacher


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))


def changed(net: nn.Sequential, step: int) -> None:
    """The weights and statistics after a step."""
    torch.manual_seed(100 + step)
    with torch.no_grad():
        for value in [*net.parameters(), net[1].running_mean, net[1].running_var]:
            assert isinstance(value, torch.Tensor)
            value.copy_(torch.rand_like(value))
    net[1].num_batches_tracked.fill_(step + 1)  # type: ignore[union-attr, operator]


def test_it_is_the_mean_of_the_first_steps_and_then_an_exponential_average() -> None:
    """With a decay of 0.6: n / (n + 1) is 0, 1/2, 2/3, so the decay is the limit from step 2 on."""
    net = network()
    teacher = Teacher(net, decay=0.6)
    states = []
    for step in range(4):
        changed(net, step)
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        teacher.follow(net, step=step)
    for name, value in teacher.network.state_dict().items():
        of_steps = [state[name] for state in states]
        if not value.is_floating_point():
            assert torch.equal(value, of_steps[-1]), name
            continue
        mean = (of_steps[0] + of_steps[1]) / 2
        wanted = 0.6 * (0.6 * mean + 0.4 * of_steps[2]) + 0.4 * of_steps[3]
        torch.testing.assert_close(value, wanted, msg=name)


def test_after_the_first_step_it_equals_the_network() -> None:
    net = network()
    teacher = Teacher(net, decay=0.996)
    changed(net, 0)
    teacher.follow(net, step=0)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in teacher.network.state_dict().items())


def test_it_has_no_gradient_and_stays_in_evaluation_mode() -> None:
    net = network()
    around = nn.ModuleDict({"student": net, "teacher": Teacher(net, decay=0.9)}).train()
    teacher = around["teacher"]
    assert isinstance(teacher, Teacher)
    assert net.training and not any(module.training for module in teacher.modules())
    image = torch.randn(2, 3, 5, 7)
    first = teacher(image)
    assert torch.equal(first, teacher(image)) and not first.requires_grad, "no dropout, and no gradient"
    assert all(not parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters()), "the network itself is trained"
    assert teacher.network[1].num_batches_tracked == 0, "its statistics are not those of its own batches"  # type: ignore[index]
