"""Each fingerprint on a case whose answer is known, without a step around it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainables.fingerprints import (
    bn_drift,
    bn_gap,
    checksum_spread,
    label_counts,
    label_entropy,
    moment_norm,
    of_every_rank,
    running_statistics,
    update_ratio,
    weight_checksum,
    weight_norm,
    zero_gradient_share,
)
from trainables.norms import NormSettings, norm_settings
from trainables.ranks import Ranks


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    """Two convolutions with batch norm between, weights of a seed."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        for i, parameter in enumerate(layers.parameters()):
            parameter.copy_(noise(*parameter.shape, seed=i))
    return layers


def weights_of(model: nn.Module) -> list[Tensor]:
    """All of them."""
    return [parameter.detach() for parameter in model.parameters()]


def test_the_norm_is_that_of_all_weights_as_one_vector() -> None:
    """3, 4 and 12 in two tensors are 13 long; an update of 1.3 is a tenth of that."""
    weights = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0], [12.0]])]
    before = [weights[0] - torch.tensor([0.0, 1.3]), weights[1].clone()]
    assert weight_norm(weights).item() == 13.0
    assert update_ratio(weights, before, weight_norm(weights)).item() == pytest.approx(0.1, rel=1e-6)


def test_zero_gradients_are_counted_by_element() -> None:
    """2 of 4 elements zero, and 4 of a parameter that got none: 6 of 8. A tiny or nan gradient is not zero."""
    some, none = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(2, 2))
    assert zero_gradient_share([some, none]).item() == 1.0
    some.grad = torch.tensor([0.0, -0.0, 1e-40, math.nan])
    assert zero_gradient_share([some, none]).item() == 0.75
    none.grad = torch.full((2, 2), -1.0)
    assert zero_gradient_share([some, none]).item() == 0.25


def test_gradients_that_underflow_in_fp16_are_zero() -> None:
    """A loss of 1e-9 leaves fp16 gradients of which a scale of 2**16 saves most."""
    shares = []
    for scale in (1.0, 2.0**16):
        model = nn.Linear(16, 16).half()
        with torch.no_grad():
            model.weight.copy_(noise(16, 16))
        (model(noise(8, 16, seed=1).half()) * (1e-9 * scale)).mean().backward()
        shares.append(zero_gradient_share(list(model.parameters())).item())
    assert shares[0] == 1.0
    assert shares[1] < 0.1


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_moments_are_those_of_the_optimizer(kind: str) -> None:
    """After one step from nothing the average is the gradient, or a tenth of it; 0 where it was lost."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer: torch.optim.Optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    if kind == "adamw":
        optimizer = torch.optim.AdamW([weight], lr=0.1)
    assert moment_norm(optimizer) is None
    weight.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    found = moment_norm(optimizer)
    assert found is not None
    assert found.item() == pytest.approx(5.0 if kind == "sgd" else 0.5, rel=1e-6)
    for name in ("momentum_buffer", "exp_avg"):
        if name in optimizer.state[weight]:
            optimizer.state[weight][name].zero_()
    lost = moment_norm(optimizer)
    assert lost is not None
    assert lost.item() == 0.0


def test_an_optimizer_without_an_average_has_no_moments() -> None:
    """Plain SGD keeps nothing, after a step too."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(2)
    optimizer.step()
    assert moment_norm(optimizer) is None


@pytest.mark.parametrize(
    ("labels", "classes", "entropy"),
    [
        ([0, 1, 2, 3] * 4, 4, 1.0),
        ([0, 1, 2, 3], 1000, 1.0),
        ([7] * 16, 10, 0.0),
        ([0, 1] * 8, 4, 0.5),
        ([0, 0, 0, 1], 4, (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)),
    ],
)
def test_entropy_of_labels(labels: list[int], classes: int, entropy: float) -> None:
    """1 for as even as can be, be it by classes or by samples; 0 for one class; between them by the formula."""
    counts = label_counts(torch.tensor(labels), classes)
    assert counts.tolist() == [labels.count(k) for k in range(classes)]
    assert label_entropy(counts, len(labels)).item() == pytest.approx(entropy, abs=1e-12)


@pytest.mark.parametrize(("labels", "classes"), [([0], 10), ([0, 0], 1)])
def test_labels_without_a_choice_have_no_entropy(labels: list[int], classes: int) -> None:
    """One sample, or one class: nan, no division by zero."""
    assert math.isnan(label_entropy(label_counts(torch.tensor(labels), classes), len(labels)).item())


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_drift_and_gap_are_those_of_the_batch(momentum: float, batches: int) -> None:
    """The gap is that of a direct computation, of micro-batches too; the drift is the share of it that was taken."""
    layer = nn.BatchNorm2d(2, momentum=momentum)
    batch = 3.0 + 2.0 * noise(8, 2, 5, 5)
    before = running_statistics(layer)
    for _ in range(batches):
        layer(batch)
    after = running_statistics(layer)
    assert before is not None
    assert after is not None
    shifts = [float(x.mean()) for x in batch.unbind(1)] + [float(x.std()) - 1.0 for x in batch.unbind(1)]
    expected = math.sqrt(sum(shift**2 for shift in shifts) / 2)
    assert bn_gap(before, after, momentum).item() == pytest.approx(expected, rel=1e-3)
    taken = 1.0 - (1.0 - momentum) ** batches
    moved = [taken * shift for shift in shifts[:2]]
    moved += [math.sqrt(1.0 + taken * float(x.var() - 1.0)) - 1.0 for x in batch.unbind(1)]
    assert bn_drift(before, after).item() == pytest.approx(math.sqrt(sum(m**2 for m in moved) / 2), rel=1e-3)


def test_frozen_statistics_do_not_drift() -> None:
    """Exactly 0, and there is no batch to lie apart from; statistics that were damaged lie far from every batch."""
    model, images = network(), noise(4, 3, 8, 8, seed=9)
    before = running_statistics(model)
    with norm_settings(model, NormSettings(frozen=True)):
        model(images)
    after = running_statistics(model)
    assert before is not None
    assert after is not None
    assert bn_drift(before, after).item() == 0.0
    assert math.isnan(bn_gap(before, after, 0.1).item())
    gaps = []
    for damage in (0.0, 1e3):
        for _ in range(100):
            model(images)
        with torch.no_grad():
            for layer in (model[1], model[4]):
                assert isinstance(layer, nn.BatchNorm2d)
                assert layer.running_mean is not None
                layer.running_mean.add_(damage)
        before = running_statistics(model)
        model(images)
        after = running_statistics(model)
        assert before is not None
        assert after is not None
        gaps.append(bn_gap(before, after, 0.1).item())
    assert gaps[0] < 1e-3
    assert gaps[1] > 100.0


def test_a_network_without_batch_norm_has_no_statistics() -> None:
    """Group norm keeps none."""
    assert running_statistics(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_checksum_sees_one_flipped_bit(dtype: torch.dtype) -> None:
    """Of the last place, of the sign, in any tensor; in another memory layout the weights keep their sum."""
    weights = [weight.to(dtype) for weight in weights_of(network())]
    whole = weight_checksum(weights).item()
    assert whole == weight_checksum([weight.clone() for weight in weights]).item()
    assert 0 <= whole < 2**52
    assert whole == int(whole)
    layout = [w.contiguous(memory_format=torch.channels_last) if w.dim() == 4 else w for w in weights]
    assert weight_checksum(layout).item() == whole
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weights[0].element_size()]
    for tensor in weights:
        for flip in (1, torch.iinfo(integers).min):
            bits = tensor.view(integers).view(-1)
            bits[-1] ^= flip
            assert weight_checksum(weights).item() != whole
            bits[-1] ^= flip
    assert weight_checksum(weights).item() == whole


def test_a_checksum_sees_weights_that_changed_places() -> None:
    """Two tensors of one shape with each other's values."""
    one, other = noise(4, 4), noise(4, 4, seed=1)
    assert weight_checksum([one, other]).item() != weight_checksum([other, one]).item()


def test_spread_counts_the_ranks_that_are_apart() -> None:
    """From rank 0, however far."""
    assert checksum_spread(torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)).item() == 0
    assert checksum_spread(torch.tensor([5.0, 6.0, 5.0], dtype=torch.float64)).item() == 1
    assert checksum_spread(torch.tensor([6.0, 5.0, 5.0], dtype=torch.float64)).item() == 2


def test_values_of_one_rank_are_its_own() -> None:
    """A world of one is no special case."""
    assert of_every_rank(torch.tensor([1.0, 2.0]), Ranks()).tolist() == [[1.0, 2.0]]
