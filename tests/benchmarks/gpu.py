"""Images per second of our step against torchvision's reference loop and timm's, and of each normalisation variant.

    make bench-gpu ARGS="--batches 128,256,512"

Needs `trainables` alone (torch, torchvision, timm, pydantic). On a GPU: ResNet-50, 224 px, bf16 autocast and
channels_last; on a CPU the same code at a small size, which shows that it runs, not how fast a GPU is. Batches are made
beforehand, in pinned memory: ours and timm's are uint8 images, torchvision's normalised floats, as its transforms make
them. The reference loops have cuDNN's autotuner on, as their scripts do; ours trains without it. Arms take turns, block
by block, in one process. The rate of a loop is its best over the batch sizes; ours is given compiled too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import get_args

import torch
import torchvision
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainables.build import build_state  # noqa: E402
from trainables.config import NormName, TrialConfig  # noqa: E402 - after the path
from trainables.data.normalize import IMAGENET_MEAN, IMAGENET_STD, build_normalization  # noqa: E402
from trainables.ingredients import Batch, Ingredients  # noqa: E402
from trainables.loop import run_step, train_step  # noqa: E402
from trainables.losses import build_loss  # noqa: E402
from trainables.optim import Hyperparameters  # noqa: E402
from trainables.ranks import Ranks  # noqa: E402
from trainables.signals import StepRecord, read_signals  # noqa: E402

CLASSES = 1000
FLOPS = 3 * 2 * 4.09e9
"""Of one image at 224 px, forward and backward: three times the multiply-adds of ResNet-50's forward pass."""
READ_EVERY = 16
Step = Callable[[int], None]


@dataclass(frozen=True)
class Size:
    """What is measured."""

    device: torch.device
    side: int
    batch: int
    steps: int
    blocks: int

    def images(self) -> Tensor:
        """uint8 [batch, side, side, 3] in host memory, pinned beside a GPU."""
        return self.pinned(torch.randint(0, 256, (self.batch, self.side, self.side, 3), dtype=torch.uint8))

    def labels(self) -> Tensor:
        """int64 [batch], likewise."""
        return self.pinned(torch.arange(self.batch) % CLASSES)

    def pinned(self, tensor: Tensor) -> Tensor:
        """The tensor in page-locked memory, where there is a GPU that copies from it."""
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def our_step(size: Size, norm: NormName, *, compiled: bool) -> Step:
    """`trainables.loop.run_step`, with all its signals, read 16 steps at a time."""
    config = TrialConfig.parse(
        {
            "global_batch_size": size.batch,
            "device": size.device.type,
            "data": {"image_size": size.side},
            "model": {"name": "resnet50", "norm": norm},
            "optim": {"lr": 0.01, "agc": 0.01 if norm == "norm_free" else None},
            "precision": {"amp": "bf16", "compile": compiled},
        }
    )
    state = build_state(config, CLASSES, Ranks())
    state.model.train()
    batch = Batch(size.images(), size.labels(), None)
    ids = torch.arange(size.batch).numpy()
    ingredients = Ingredients(
        step=0,
        optim=Hyperparameters.of(config.optim, 0.01),
        clip_grad_norm=None,
        agc=config.optim.agc,
        sample_ids=ids,
        epochs=ids * 0,
        decode=lambda ids, epochs: batch.images,
        normalize=build_normalization("imagenet", IMAGENET_MEAN, IMAGENET_STD),
        label=lambda ids, epochs: batch.labels.numpy(),
        companions=None,
        loss=build_loss("ce", 0.0),
        mix=None,
        amp="bf16",
        norm=None,
        loss_scale=None,
        code=train_step,
    )
    unread: list[StepRecord] = []

    def step(number: int) -> None:
        unread.append(run_step(state, replace(ingredients, step=number), batch))
        if len(unread) == READ_EVERY:
            read_signals(unread)
            unread.clear()

    return step


def reference_model(size: Size) -> tuple[nn.Module, torch.optim.SGD]:
    """Torchvision's ResNet-50 in channels_last, and SGD as both reference scripts build it."""
    model = torchvision.models.resnet50(num_classes=CLASSES).to(size.device).to(memory_format=torch.channels_last)
    return model.train(), torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def torchvision_step(size: Size) -> Step:
    """The body of torchvision's references/classification/train.py, with bf16 autocast and channels_last."""
    model, optimizer = reference_model(size)
    criterion = nn.CrossEntropyLoss()
    images = size.pinned((size.images().permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225)
    labels = size.labels()

    def step(_number: int) -> None:
        image = images.to(size.device, memory_format=torch.channels_last, non_blocking=True)
        target = labels.to(size.device, non_blocking=True)
        with torch.autocast(size.device.type, torch.bfloat16):
            output = model(image)
            loss = criterion(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = output.topk(5).indices == target[:, None]
        # Its meters read these at every step.
        for value in (loss, right[:, 0].sum(), right.sum()):
            value.item()

    return step


def timm_step(size: Size) -> Step:
    """The body of timm's train.py with its prefetcher: uint8 to the device, normalised there; nothing is read."""
    model, optimizer = reference_model(size)
    criterion = nn.CrossEntropyLoss()
    images, labels = size.images().permute(0, 3, 1, 2), size.labels()
    mean = torch.tensor([value * 255 for value in IMAGENET_MEAN], device=size.device).view(1, 3, 1, 1)
    std = torch.tensor([value * 255 for value in IMAGENET_STD], device=size.device).view(1, 3, 1, 1)

    def step(_number: int) -> None:
        image = images.to(size.device, non_blocking=True).float().sub_(mean).div_(std)
        target = labels.to(size.device, non_blocking=True)
        with torch.autocast(size.device.type, torch.bfloat16):
            loss = criterion(model(image.contiguous(memory_format=torch.channels_last)), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rates(size: Size, arms: dict[str, Step]) -> dict[str, float]:
    """Images/s of each arm: median over blocks of steps in which the arms take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for block in range(size.blocks + 1):
        for name, step in arms.items():
            torch.backends.cudnn.benchmark = not name.startswith("ours")
            started = time.perf_counter()
            for number in range(size.steps):
                step(block * size.steps + number + 1)
            if size.device.type == "cuda":
                torch.cuda.synchronize()
            # The first block warms up: autotuning, compilation, memory.
            if block:
                seconds[name].append(time.perf_counter() - started)
    return {name: size.steps * size.batch / median(values) for name, values in seconds.items()}


def matrix_peak(device: torch.device) -> float:
    """FLOP/s of a large bf16 matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 10 * 2 * n**3 / min(seconds)


def main() -> int:
    """Print both tables."""
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", default="128,256,512" if on_gpu else "8")
    parser.add_argument("--side", type=int, default=224 if on_gpu else 64)
    parser.add_argument("--steps", type=int, default=30 if on_gpu else 2)
    parser.add_argument("--blocks", type=int, default=5 if on_gpu else 3)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=on_gpu)
    parser.add_argument("--norms", default=",".join(get_args(NormName)))
    arguments = parser.parse_args()
    device = torch.device("cuda" if on_gpu else "cpu")
    best: dict[str, tuple[float, int]] = {}
    for batch in map(int, arguments.batches.split(",")):
        size = Size(device, arguments.side, batch, arguments.steps, arguments.blocks)
        arms = {"ours": our_step(size, "bn", compiled=False)}
        if arguments.compile:
            arms["ours, compiled"] = our_step(size, "bn", compiled=True)
        arms |= {"torchvision": torchvision_step(size), "timm": timm_step(size)}
        for name, rate in rates(size, arms).items():
            best[name] = max(best.get(name, (0.0, 0)), (rate, batch))
    peak = matrix_peak(device)
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    print(f"{name}, ResNet-50, {arguments.side} px, bf16; matrix peak {peak / 1e12:.1f} TFLOP/s")
    print(f"{'loop':14} {'images/s':>9} {'batch':>6} {'x torchvision':>14} {'of the peak':>12}")
    for loop, (rate, batch) in best.items():
        share = rate * FLOPS * (arguments.side / 224) ** 2 / peak
        print(f"{loop:14} {rate:9.1f} {batch:6} {rate / best['torchvision'][0]:14.2f} {share:12.1%}")
    size = Size(device, arguments.side, best["ours"][1], arguments.steps, arguments.blocks)
    print(f"\n{'norm':14} {'images/s':>9} {'x bn':>6}")
    base = 0.0
    for norm in (norm for norm in get_args(NormName) if norm in arguments.norms.split(",")):
        (rate,) = rates(size, {f"ours, {norm}": our_step(size, norm, compiled=arguments.compile)}).values()
        base = base or rate
        print(f"{norm:14} {rate:9.1f} {rate / base:6.2f}", flush=True)
    ours = max(rate for loop, (rate, _) in best.items() if loop.startswith("ours"))
    return 0 if not on_gpu or ours >= 1.25 * best["torchvision"][0] else 1


if __name__ == "__main__":
    sys.exit(main())
