"""Mixup and CutMix of neighbours: torchvision's pixels for the same draws, on any number of ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.data.mixing import Mix, draw_mix, mix_images, partner_labels
from trainables.ranks import Ranks
from trainables.rng import generator

MIXES = (
    Mix(0.3, None),
    Mix(0.9, None),
    Mix(0.0, None),
    Mix(1.0, None),
    Mix(1 - 6 * 12 / 16**2, (0, 4, 6, 16)),
    Mix(1.0, (5, 5, 5, 5)),
    Mix(0.0, (0, 0, 16, 16)),
)


@pytest.fixture
def images() -> torch.Tensor:
    """Normal noise: float32 [8, 3, 16, 16]."""
    return torch.from_numpy(generator("images").standard_normal((8, 3, 16, 16), dtype=np.float32))


def by_torchvision(images: torch.Tensor, labels: torch.Tensor, mix: Mix) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair mixed by torchvision's own transform, which mixes a batch of two as neighbours."""
    mixed = []
    for pair, classes in zip(images.split(2), labels.split(2), strict=True):
        params = {"labels": classes, "batch_size": 2}
        if mix.box is None:
            transform, params["lam"] = v2.MixUp(num_classes=10), mix.lam
        else:
            top, left, bottom, right = mix.box
            transform = v2.CutMix(num_classes=10)
            params |= {"box": (left, top, right, bottom), "lam_adjusted": mix.lam}
        mixed.append((transform.transform(pair, params), transform.transform(classes, params)))
    return torch.cat([pair for pair, _ in mixed]), torch.cat([targets for _, targets in mixed])


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_images_and_labels_are_torchvisions(images: torch.Tensor, mix: Mix) -> None:
    """The same share, box and pairs: CutMix bit for bit, mixup to the last bits; the targets follow the same share."""
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6])
    expected, expected_targets = by_torchvision(images, labels, mix)
    found = mix_images(images, mix)
    if mix.box is None:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(found, expected)
    own, others = (torch.nn.functional.one_hot(classes, 10) for classes in (labels, partner_labels(labels)))
    torch.testing.assert_close(mix.lam * own + (1 - mix.lam) * others, expected_targets)


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_memory_layout_and_input_are_kept(images: torch.Tensor, mix: Mix) -> None:
    """channels_last stays so, the result is the same, and the batch that came in is unchanged."""
    before = images.clone()
    plain = mix_images(images, mix)
    wide = mix_images(images.to(memory_format=torch.channels_last), mix)
    assert wide.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(wide, plain)
    assert torch.equal(images, before)


def test_shares_of_the_ends() -> None:
    """A share of 1 is the image itself and one of 0 its neighbour, exactly."""
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mix_images(images, Mix(1.0, None)), images)
    assert torch.equal(mix_images(images, Mix(0.0, None)), images[[1, 0, 3, 2]])


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_mixes_its_own_share_as_the_whole_batch(images: torch.Tensor, mix: Mix, world_size: int) -> None:
    """Where the shares are even no pair is parted: the ranks' results together are those of one rank."""
    shares = [Ranks(rank, world_size).share(8) for rank in range(world_size)]
    together = torch.cat([mix_images(images[share], mix) for share in shares])
    assert torch.equal(together, mix_images(images, mix))
    labels = torch.arange(8)
    assert torch.equal(torch.cat([partner_labels(labels[share]) for share in shares]), labels ^ 1)


def test_an_odd_batch_has_no_pairs(images: torch.Tensor) -> None:
    """It is refused rather than mixed in some other way."""
    with pytest.raises(AssertionError, match="7 samples don't pair up"):
        mix_images(images[:7], Mix(0.5, None))


def test_a_mix_is_a_function_of_seed_and_step() -> None:
    """Equal keys give equal mixes; another seed or step gives another one."""
    base = draw_mix(1, 2, 0.2, 0.0, 224)
    assert draw_mix(1, 2, 0.2, 0.0, 224) == base
    assert draw_mix(1, 3, 0.2, 0.0, 224) != base
    assert draw_mix(2, 2, 0.2, 0.0, 224) != base


def test_neither_kind_is_no_mix() -> None:
    """Both parameters 0: None, at every step."""
    assert all(draw_mix(0, step, 0.0, 0.0, 32) is None for step in range(20))


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_mixups_share_is_beta_distributed(alpha: float) -> None:
    """Over 3,000 steps mean 1/2 and variance 1 / (4 (2 alpha + 1)), within five errors of the mean and to 10 %."""
    mixes = [draw_mix(0, step, alpha, 0.0, 32) for step in range(3000)]
    lams = np.array([mix.lam for mix in mixes if mix is not None and mix.box is None])
    variance = 1 / (4 * (2 * alpha + 1))
    assert lams.size == 3000
    assert abs(lams.mean() - 0.5) < 5 * math.sqrt(variance / 3000)
    assert lams.var() == pytest.approx(variance, rel=0.1)
    assert 0 <= lams.min() <= lams.max() <= 1


@pytest.mark.parametrize("alpha", [0.3, 1.0])
@pytest.mark.parametrize("side", [16, 63])
def test_boxes_are_distributed_as_torchvisions(alpha: float, side: int) -> None:
    """Mean and spread of the box's four sides and of lam agree with CutMix's over 3,000 draws."""
    mixes = [draw_mix(0, step, 0.0, alpha, side) for step in range(3000)]
    ours = np.array([(*mix.box, mix.lam) for mix in mixes if mix is not None and mix.box is not None])
    torch.manual_seed(0)
    reference, batch = v2.CutMix(alpha=alpha, num_classes=2), torch.empty(2, 3, side, side)
    drawn = [reference.make_params([batch]) for _ in range(3000)]
    theirs = np.array([[*(params["box"][k] for k in (1, 0, 3, 2)), params["lam_adjusted"]] for params in drawn])
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 3000)
    assert len(ours) == 3000
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.1)


@pytest.mark.parametrize("side", [8, 31, 224])
def test_lam_is_the_share_that_is_left(side: int) -> None:
    """The box lies inside the image, and lam counts exactly the pixels that stay the image's own."""
    own = torch.zeros(2, 1, side, side)
    own[1] = 1
    for step in range(100):
        mix = draw_mix(3, step, 0.0, 1.0, side)
        assert mix is not None
        assert mix.box is not None
        top, left, bottom, right = mix.box
        assert 0 <= top <= bottom <= side
        assert 0 <= left <= right <= side
        assert float(mix_images(own, mix)[1].double().mean()) == pytest.approx(mix.lam, abs=1e-12)


def test_both_kinds_take_turns_by_chance() -> None:
    """Half of the steps each, within five deviations, and each step's mix is the one of its kind alone."""
    cut = 0
    for step in range(1000):
        mix = draw_mix(0, step, 0.2, 1.0, 32)
        assert mix is not None
        cut += mix.box is not None
        alone = draw_mix(0, step, 0.2, 0.0, 32) if mix.box is None else draw_mix(0, step, 0.0, 1.0, 32)
        assert mix == alone
    assert abs(cut - 500) < 5 * math.sqrt(1000 / 4)


def test_a_box_scales_with_the_side() -> None:
    """Trials that differ in the side cut the same share of the image, to the rounding of pixels."""
    for step in range(50):
        small, large = draw_mix(0, step, 0.0, 1.0, 32), draw_mix(0, step, 0.0, 1.0, 320)
        assert small is not None
        assert large is not None
        assert small.box is not None
        assert large.box is not None
        np.testing.assert_allclose(np.array(large.box) / 320, np.array(small.box) / 32, atol=2 / 32)
