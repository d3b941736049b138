"""(b) Small networks, which are bound by the launches of their kernels: eager, compiled, graphs.

Images lie on the device, except in the row `in_memory`: there they lie in the memory of the host,
as in a run of `mtl train`. All rows but `by_hand` are the step of the Trainer, with bf16-mixed.

`encoder_graph` replays the encoder's forward and backward as two CUDA graphs; heads, losses,
augmentation and optimizer stay eager, because their draws come from the host in each step.
`reduce_overhead` does the same by torch.compile. `by_hand_graph` is the upper limit: a hand-written
supervised step without augmentation, as ONE graph. No configuration of mtlcore does this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from baselines import HandNet
from torch import Tensor, nn

from mtlcore import Encoder, component
from mtlcore.contracts import Features
from mtlcore.encoders.resnet_small import ResnetSmall
from mtlcore.training.trainer import Trainer

from .bench import Bench, NotHere, Row
from .made import CLASSES, Noise, experiment, resident, trainer

GOAL = 3.0  # images/s over those of the eager step
BF16 = torch.bfloat16


def small_nets(bench: Bench) -> None:
    sizes = (24,) if bench.tiny else (48, 96)
    nets: dict[str, Encoder] = {"resnet_small": ResnetSmall(width=bench.size(16, 8))}
    if not bench.tiny:
        nets["resnet18"] = component("encoder", "resnet18")
    setups = [
        _Setup(bench, name, net, size, bench.size(128, 8))
        for size in sizes
        for name, net in nets.items()
    ]
    # What takes long to compile comes last: a part without time left has the other rows.
    for setup in setups:
        setup.run("eager", setup.eager)
        setup.run("in_memory", setup.in_memory)
        setup.run("encoder_graph", setup.encoder_graph)
        setup.run("by_hand", setup.by_hand)
        setup.run("by_hand_graph", setup.by_hand_graph)
    for setup in setups:
        setup.run("reduce_overhead", setup.reduce_overhead)
        setup.run("compile", setup.compiled)


class _Setup:
    """One network at one size."""

    def __init__(self, bench: Bench, name: str, encoder: Encoder, size: int, batch: int) -> None:
        self.bench, self.name, self.encoder, self.size, self.batch = (
            bench,
            name,
            encoder,
            size,
            batch,
        )
        self.data = Noise(bench.size(2048, 64), size)

    def run(self, variant: str, measure: Callable[[], Row]) -> None:
        """Report a row with its ratio to the eager step."""
        name = f"{self.name}_{self.size}"

        def with_ratio() -> Row:
            row = measure()
            over = self.bench.ratio_to(f"{name}_eager", row["value"])
            return row if variant == "eager" else {**row, "over_eager": over, "goal": GOAL}

        self.bench.case(f"{name}_{variant}", with_ratio)

    def trainer(self, **train: object) -> Trainer:
        exp = experiment(
            self.bench,
            self.data,
            self.encoder,
            self.size,
            self.batch,
            **{"precision": "bf16-mixed", **train},
        )
        return trainer(exp)

    def speed(self, step: Callable[[], object], warm: int = 5) -> Row:
        step_s = self.bench.seconds_of(step, 1.5, warm)
        return {
            "value": round(self.batch / step_s, 1),
            "unit": "images/s",
            "step_ms": round(1000 * step_s, 3),
        }

    # ------------------------------------------------------------------------------- our step

    def eager(self) -> Row:
        return self.speed(resident(self.trainer()).step)

    def in_memory(self) -> Row:
        return self.speed(self.trainer().step)

    def compiled(self) -> Row:
        if self.bench.tiny:
            raise NotHere("compiling takes too long for --tiny")
        return self.speed(resident(self.trainer(compile=True)).step)

    def reduce_overhead(self) -> Row:
        self.bench.needs_cuda()
        made = resident(self.trainer())
        torch._dynamo.reset()
        before = skipped_graphs()  # of earlier rows
        net = made.encoder.net
        made.encoder._compiled = torch.compile(net.forward, fullgraph=True, mode="reduce-overhead")

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            made.step()

        # The first steps compile, warm up and record the graphs.
        row = self.speed(step, warm=10)
        return {**row, "graphs_skipped": skipped_graphs() - before}

    def encoder_graph(self) -> Row:
        self.bench.needs_cuda()
        made = resident(self.trainer())
        made.step()  # libraries create their handles outside of the capture
        made.encoder._compiled = graphed(made.encoder.net, self.batch, self.size, BF16)
        return self.speed(made.step)

    # ------------------------------------------------------------------------------- by hand

    def by_hand(self) -> Row:
        return self.speed(self.hand().eager)

    def by_hand_graph(self) -> Row:
        self.bench.needs_cuda()
        hand = self.hand()
        hand.capture()
        return self.speed(hand.replay)

    def hand(self) -> _Hand:
        with torch.random.fork_rng(devices=[]):
            return _Hand(self.encoder, self.size, self.batch, self.bench.device)


def skipped_graphs() -> int:
    """Return how many CUDA graphs torch.compile did not record in this process so far."""
    return torch._dynamo.utils.counters["inductor"].get("cudagraph_skips", 0)


class _Pooled(nn.Module):
    """The pooled features alone, which classification heads read, as a graph can return them."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        # Without the cache: its casts of weights would be made once, before the capture.
        with torch.autocast(images.device.type, self.dtype, cache_enabled=False):
            features: Features = self.net(images)
        return features.pooled


def graphed(
    net: nn.Module, batch: int, size: int, dtype: torch.dtype
) -> Callable[[Tensor], Features]:
    """Return the forward of an encoder whose kernels are two CUDA graphs: forward and backward.

    The warm-up changes BatchNorm's statistics, which does not matter for a measurement.
    """
    device = next(net.parameters()).device
    sample = torch.zeros(batch, 3, size, size, device=device)
    pooled_net = _Pooled(net, dtype).train()
    replayed = torch.cuda.make_graphed_callables(pooled_net, (sample,), allow_unused_input=True)

    def forward(images: Tensor) -> Features:
        pooled = replayed(images)
        return Features((), pooled, pooled)

    return forward


class _Hand:
    """A supervised step that is written by hand, on images of the device."""

    def __init__(self, encoder: Encoder, size: int, batch: int, device: torch.device) -> None:
        dim = encoder.build((size, size)).eval()(torch.zeros(1, 3, size, size)).pooled.shape[1]
        self.net = HandNet(encoder, size, dim, [CLASSES]).to(device).train()
        cuda = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=1e-3, weight_decay=0.05, fused=True, capturable=cuda
        )
        self.device = device
        self.pixels = torch.randint(0, 256, (8 * batch, 3, size, size), dtype=torch.uint8).to(
            device
        )
        self.classes = torch.randint(0, CLASSES, (8 * batch,)).to(device)
        # What a graph reads: always the same memory.
        self.images = self.pixels[:batch].clone()
        self.targets = self.classes[:batch].clone()
        self.batch, self.position = batch, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def draw(self) -> None:
        """Copy the next batch to where the step reads it."""
        self.position = (self.position + self.batch) % len(self.pixels)
        batch = slice(self.position, self.position + self.batch)
        self.images.copy_(self.pixels[batch])
        self.targets.copy_(self.classes[batch])

    def work(self) -> None:
        with torch.autocast(self.device.type, BF16, cache_enabled=False):
            (logits,) = self.net(self.images.float() / 255)
        F.cross_entropy(logits.float(), self.targets).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimizer.step()

    def eager(self) -> None:
        self.draw()
        self.optimizer.zero_grad(set_to_none=True)
        self.work()

    def capture(self) -> None:
        """Capture the step, after some on a side stream, as torch's documentation shows."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.optimizer.zero_grad(set_to_none=True)
                self.work()
        torch.cuda.current_stream().wait_stream(side)
        # The backward of the capture must create the gradients, in the memory of the graph.
        self.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.work()

    def replay(self) -> None:
        assert self.graph is not None
        self.draw()
        self.graph.replay()
