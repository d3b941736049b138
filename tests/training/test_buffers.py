"""Buffers of a step: copied, kept, or restored, bit for bit."""

from __future__ import annotations

import torch
from torch import nn

from mtlcore.training.buffers import Buffers


def test_a_bad_step_restores_each_buffer_bit_for_bit_and_a_good_one_keeps_it(subtests) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm1d(1), nn.Module())
        values = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
        values[0, 0, 0] = float("nan")
        net[2].register_buffer("values", values)
        net[2].register_buffer("halves", torch.randn(3).bfloat16())
        net[2].register_buffer("flags", torch.tensor([[True, False]]))
        return net

    def change(net: nn.Module) -> None:
        for buffer in net.buffers():
            buffer.copy_(~buffer if buffer.dtype == torch.bool else buffer * 3 + 1)

    def raw(net: nn.Module) -> list[bytes]:
        return [b.contiguous().flatten().view(torch.uint8).numpy().tobytes() for b in net.buffers()]

    old, new = network(), network()
    change(new)
    assert raw(old) != raw(new)
    outcomes = {
        "good": (lambda before: before.restore_unless(torch.tensor(True)), new),
        "bad": (lambda before: before.restore_unless(torch.tensor(False)), old),
        "undone": (Buffers.restore, old),
    }
    for name, (end, expected) in outcomes.items():
        with subtests.test(name):
            net = network()
            tensors = [id(b) for b in net.buffers()]
            before = Buffers.of(net, nn.Linear(1, 1))
            change(net)
            end(before)
            assert raw(net) == raw(expected)
            assert [id(b) for b in net.buffers()] == tensors
