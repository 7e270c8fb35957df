"""Sync batch norm over two processes (gloo) is plain batch norm over their batches together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.norm_layers import SyncBatchNorm2d
from trainables.ranks import Ranks

if TYPE_CHECKING:
    from tests.trainables.conftest import RunRanks

CHANNELS = 6
SAMPLES = 12
CUTS = {"equal": 6, "unequal": 5, "one sample": 1}
"""Samples of rank 0, of SAMPLES."""
STEPS = 2


def images(step: int) -> Tensor:
    """The whole batch of a step: noise around a level far from zero, other for each sample."""
    draw = torch.Generator().manual_seed(step)
    return (
        torch.randn(SAMPLES, CHANNELS, 4, 4, generator=draw) + 3.0 * torch.randn(SAMPLES, 1, 1, 1, generator=draw) + 9
    )


def train_layer(layer: nn.Module, share: slice) -> dict[str, Tensor]:
    """What STEPS training steps on this share of each batch leave: outputs, gradients, buffers; then an evaluation."""
    found: dict[str, Tensor] = {}
    for step in range(STEPS):
        batch = images(step)[share].requires_grad_()
        out = layer(batch)
        (out * images(9)[share]).sum().backward()
        assert batch.grad is not None
        found |= {f"out{step}": out.detach(), f"grad{step}": batch.grad}
    found |= {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    found |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return found | {"evaluated": layer.eval()(images(5)[share]).detach()}


def train_net(norm: type[nn.Module], ranks: Ranks) -> Tensor:
    """All weights of a small net after STEPS of SGD, under DDP where there are two ranks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(CHANNELS, 8, 3), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 2), norm(8), nn.Flatten()]
        network: nn.Module = nn.Sequential(*layers, nn.Linear(8, 3))
    if ranks.world_size > 1:
        network = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        network(images(step)[ranks.share(SAMPLES)]).square().mean().backward()
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def worker(rank: int, folder: str) -> None:
    """What each rank does; it leaves its findings in `folder`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, cut in CUTS.items():
        found[name] = train_layer(SyncBatchNorm2d(CHANNELS).train(), slice(cut) if rank == 0 else slice(cut, None))
    with torch.autocast("cpu", torch.bfloat16):
        found["bf16"] = SyncBatchNorm2d(CHANNELS).train()(images(0)[Ranks(rank, 2).share(SAMPLES)].bfloat16())
    if rank == 0:
        # Rank 1 takes no part: were evaluation to wait for it, this would hang.
        found["alone"] = SyncBatchNorm2d(CHANNELS).eval()(images(0))
    found["weights"] = train_net(SyncBatchNorm2d, Ranks(rank, 2))
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(run_ranks: RunRanks, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks finds."""
    folder = tmp_path_factory.mktemp("sync")
    run_ranks(worker, 2, str(folder))
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("cut", CUTS)
def test_two_ranks_are_one_batch(both: list[dict[str, Any]], cut: str) -> None:
    """Outputs, input gradients, running statistics and evaluation are those of batch norm over all samples, and the
    gradients of scale and shift add up to its, for ranks with other numbers of samples too.
    """
    expected = train_layer(nn.BatchNorm2d(CHANNELS).train(), slice(None))
    for name, values in expected.items():
        parts = [found[cut][name] for found in both]
        if name in ("weight", "bias"):
            torch.testing.assert_close(parts[0] + parts[1], values, rtol=1e-4, atol=1e-3)
        elif name.startswith(("running", "num")):
            assert torch.equal(parts[0], parts[1]), name
            torch.testing.assert_close(parts[0], values)
        else:
            torch.testing.assert_close(torch.cat(parts), values, rtol=1e-4, atol=1e-5)


def test_a_network_under_ddp_is_trained_as_by_one_process(both: list[dict[str, Any]]) -> None:
    """The collectives of the layers and of DDP keep out of each other's way, and the weights come out the same."""
    assert torch.equal(both[0]["weights"], both[1]["weights"])
    torch.testing.assert_close(both[0]["weights"], train_net(nn.BatchNorm2d, Ranks()), rtol=1e-4, atol=1e-5)


def test_bf16_is_normalised_by_float32_statistics(both: list[dict[str, Any]]) -> None:
    """The output is bf16 like the input, and within bf16's rounding of the float32 one."""
    found = torch.cat([found["bf16"] for found in both])
    assert found.dtype == torch.bfloat16
    expected = nn.BatchNorm2d(CHANNELS).train()(images(0).bfloat16().float())
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_evaluation_waits_for_nobody(both: list[dict[str, Any]]) -> None:
    """One rank may evaluate alone: the running statistics are its own."""
    torch.testing.assert_close(both[0]["alone"], nn.BatchNorm2d(CHANNELS).eval()(images(0)))


def test_one_rank_in_a_group_trains_like_batch_norm(tmp_path: Path) -> None:
    """A group of one on a CPU, where torch's own sync batch norm raises, gives batch norm's bits."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = train_layer(SyncBatchNorm2d(CHANNELS).train(), slice(None))
        with pytest.raises(ValueError, match="GPU"):
            nn.SyncBatchNorm(CHANNELS).train()(images(0))
    finally:
        dist.destroy_process_group()
    for name, values in train_layer(nn.BatchNorm2d(CHANNELS).train(), slice(None)).items():
        assert torch.equal(found[name], values), name
