"""Samples to pixels."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.data.augment import color_jitter, draw_crop
from trainables.data.auto_augment import rand_augment, trivial_augment
from trainables.data.decode import read_rgb
from trainables.data.images import Augment, ImageSource
from trainables.data.index import ImageIndex, open_index
from trainables.data.prefetch import Prefetcher
from trainables.data.sampler import EpochSampler
from trainables.errors import DataError
from trainables.rng import generator

TinyImages = Callable[..., Path]

AUGMENTS: tuple[Augment, ...] = ("none", "flip", "crop", "crop_flip")


@pytest.fixture
def index(tiny_images: TinyImages, tmp_path: Path) -> ImageIndex:
    """Sixteen training images, wider than high."""
    return open_index(str(tiny_images(train=8)), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("augment", AUGMENTS)
def test_shape_and_type(augment: Augment, index: ImageIndex) -> None:
    """Bytes in NHWC, square, of the size asked for, larger or smaller than the file."""
    for size in (8, 24, 50):
        batch = ImageSource(index.train, size, augment, 0).fetch(np.arange(3), 0)
        assert batch.shape == (3, size, size, 3)
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous()


@pytest.mark.parametrize("augment", AUGMENTS)
def test_a_sample_does_not_depend_on_its_batch(augment: Augment, index: ImageIndex) -> None:
    """Alone, in another order, or twice in one batch: the pixels are the same."""
    source = ImageSource(index.train, 24, augment, 0)
    batch = source.fetch(np.array([3, 9, 3, 0]), 2)
    assert torch.equal(batch[0], batch[2])
    for row, sample_id in enumerate((3, 9, 3, 0)):
        assert torch.equal(source.fetch(np.array([sample_id]), 2)[0], batch[row])


def test_augmentation_is_drawn_by_seed_epoch_and_sample(index: ImageIndex) -> None:
    """Each of the three changes the pixels; equal keys give them again in a fresh source."""
    ids = np.arange(16)
    source = ImageSource(index.train, 24, "crop", 0)
    base = source.fetch(ids, 0)
    assert torch.equal(ImageSource(index.train, 24, "crop", 0).fetch(ids, 0), base)
    for other in (ImageSource(index.train, 24, "crop", 1).fetch(ids, 0), source.fetch(ids, 1)):
        assert all(not torch.equal(one, two) for one, two in zip(base, other, strict=True))


def test_a_batch_may_span_epochs(index: ImageIndex) -> None:
    """Each sample is augmented by its own epoch."""
    source = ImageSource(index.train, 24, "crop_flip", 0)
    ids = np.array([5, 6, 7])
    mixed = source.fetch(ids, np.array([3, 3, 4]))
    assert torch.equal(mixed[:2], source.fetch(ids[:2], 3))
    assert torch.equal(mixed[2:], source.fetch(ids[2:], 4))


def test_evaluation_is_resize_and_centre_crop(index: ImageIndex) -> None:
    """As torchvision's own transforms; `none` trains on the same pixels in every epoch."""
    transform = v2.Compose([v2.Resize(24, antialias=True), v2.CenterCrop(24)])
    images = (transform(read_rgb(index.train.store, place)).permute(1, 2, 0) for place in range(len(index.train)))
    expected = torch.stack(list(images))
    ids = np.arange(16)
    assert torch.equal(ImageSource(index.train, 24, "crop_flip", 0).fetch(ids, None), expected)
    assert torch.equal(ImageSource(index.train, 24, "none", 0).fetch(ids, 7), expected)


def test_flip_mirrors_about_half_of_the_samples(index: ImageIndex) -> None:
    """Each image is the plain one or its mirror; over 40 epochs half are mirrored, within four standard deviations."""
    ids = np.arange(16)
    plain = ImageSource(index.train, 24, "none", 0).fetch(ids, 0)
    source = ImageSource(index.train, 24, "flip", 0)
    mirrored = 0
    for epoch in range(40):
        for found, image in zip(source.fetch(ids, epoch), plain, strict=True):
            if not torch.equal(found, image):
                assert torch.equal(found, image.flip(1))
                mirrored += 1
    assert abs(mirrored - 320) < 4 * math.sqrt(640 / 4)


def test_crop_and_crop_flip_share_their_crops(index: ImageIndex) -> None:
    """Two trials that differ in the flip only see the same rectangles."""
    ids = np.arange(16)
    crops = ImageSource(index.train, 24, "crop", 0).fetch(ids, 1)
    for found, crop in zip(ImageSource(index.train, 24, "crop_flip", 0).fetch(ids, 1), crops, strict=True):
        assert torch.equal(found, crop) or torch.equal(found, crop.flip(1))


@pytest.mark.parametrize("min_area", [0.08, 0.5])
def test_a_crop_is_drawn_with_the_least_area(index: ImageIndex, min_area: float) -> None:
    """The rectangle of (seed, epoch, sample id), cut and resized by torchvision, bit for bit."""
    rng = generator(0, "augment", 2, 4)
    rng.random()
    top, left, height, width = draw_crop(rng, 32, 40, min_area)
    pixels = read_rgb(index.train.store, 4)
    expected = v2.functional.resized_crop(pixels, top, left, height, width, [24, 24], antialias=True)
    found = ImageSource(index.train, 24, "crop", 0, crop_min_area=min_area).fetch(np.array([4]), 2)[0]
    assert torch.equal(found, expected.permute(1, 2, 0))


@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (28, 32), (24, 27)])
def test_evaluation_cuts_the_middle(index: ImageIndex, size: int, short_side: int) -> None:
    """As torchvision's presets: 224 of 256 is a ratio of 0.875; `none` trains on the same pixels."""
    transform = v2.Compose([v2.Resize(short_side, antialias=True), v2.CenterCrop(size)])
    ids = np.arange(4)
    expected = torch.stack([transform(read_rgb(index.train.store, int(i))).permute(1, 2, 0) for i in ids])
    source = ImageSource(index.train, size, "none", 0, eval_crop_ratio=0.875)
    assert torch.equal(source.fetch(ids, None), expected)
    assert torch.equal(source.fetch(ids, 3), expected)
    assert not torch.equal(ImageSource(index.train, size, "none", 0).fetch(ids, None), expected)


@pytest.mark.parametrize("augment", AUGMENTS)
def test_rand_augment_follows_crop_and_flip(index: ImageIndex, augment: Augment) -> None:
    """Drawn by (seed, epoch, sample id), on the pixels as they are without it; evaluation stays as it is."""
    ids = np.arange(16)
    plain = ImageSource(index.train, 24, augment, 5)
    source = ImageSource(index.train, 24, augment, 5, rand_augment_ops=2, rand_augment_magnitude=9)
    expected = [
        rand_augment(pixels.permute(2, 0, 1), generator(5, "rand_augment", 3, i), 2, 9).permute(1, 2, 0)
        for i, pixels in enumerate(plain.fetch(ids, 3))
    ]
    assert torch.equal(source.fetch(ids, 3), torch.stack(expected))
    assert not torch.equal(source.fetch(ids, 3), plain.fetch(ids, 3))
    assert not torch.equal(source.fetch(ids, 3), source.fetch(ids, 4))
    assert torch.equal(source.fetch(ids, None), plain.fetch(ids, None))


def test_an_option_without_effect_changes_no_pixel(index: ImageIndex) -> None:
    """By default crops cover half of the image or more; strength and middle don't matter to a crop alone."""
    ids = np.arange(16)
    base = ImageSource(index.train, 24, "crop_flip", 0).fetch(ids, 1)
    for same in ({"crop_min_area": 0.5}, {"rand_augment_magnitude": 20}, {"eval_crop_ratio": 0.875}):
        assert torch.equal(ImageSource(index.train, 24, "crop_flip", 0, **same).fetch(ids, 1), base)
    assert not torch.equal(ImageSource(index.train, 24, "crop_flip", 0, crop_min_area=0.08).fetch(ids, 1), base)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_batch_of_a_step_does_not_depend_on_threads(threads: int, digits_index: ImageIndex) -> None:
    """Sampler, images and prefetcher together: any number of threads gives the bits of a plain call."""
    sampler = EpochSampler(len(digits_index.train), 250, 0)
    source = ImageSource(digits_index.train, 32, "crop_flip", 0)

    def fetch(step: int) -> torch.Tensor:
        return source.fetch(sampler.sample_ids(step), sampler.epochs(step))

    with Prefetcher(fetch, threads) as prefetcher:
        for step in (0, 1, 5, 6, 2):
            assert torch.equal(prefetcher.get(step), fetch(step))


def test_a_position_has_the_same_pixels_for_every_batch_size(digits_index: ImageIndex) -> None:
    """Position p is the same sample with the same augmentation for batches of 8 and 32, across the border of epochs."""
    source = ImageSource(digits_index.train, 32, "crop_flip", 0)
    small, large = EpochSampler(1500, 8, 0), EpochSampler(1500, 32, 0)
    for step in (0, 46, 47):
        expected = source.fetch(large.sample_ids(step), large.epochs(step))
        steps = range(step * 4, step * 4 + 4)
        found = torch.cat([source.fetch(small.sample_ids(k), small.epochs(k)) for k in steps])
        assert torch.equal(found, expected)
    assert large.epochs(46).tolist() == [0] * 28 + [1] * 4


def test_intra_op_threads_and_concurrency_change_no_bit(clothing: Path, tmp_path: Path) -> None:
    """Real photos: one torch thread or two, four fetches at once or one after the other."""
    index = open_index(str(clothing), cache_dir=tmp_path)
    source = ImageSource(index.train, 64, "crop_flip", 0, crop_min_area=0.08, rand_augment_ops=2)
    ids = np.arange(0, 3000, 75)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = source.fetch(ids, 0)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: source.fetch(ids, 0), range(4)):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_a_damaged_image_is_an_error_that_names_it(index: ImageIndex) -> None:
    """The file is named, through the prefetcher too."""
    Path(index.train.store.locate(2)).write_bytes(b"no image")
    source = ImageSource(index.train, 24, "crop", 0)
    with Prefetcher(lambda step: source.fetch(np.array([step]), 0), 2) as prefetcher:
        prefetcher.get(1)
        with pytest.raises(DataError, match=index.train.store.locate(2)):
            prefetcher.get(2)


def test_it_survives_pickling(index: ImageIndex) -> None:
    """A source may travel to another process."""
    source = ImageSource(index.train, 24, "crop_flip", 5)
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert torch.equal(again.fetch(np.arange(4), 1), source.fetch(np.arange(4), 1))


def test_colours_change_in_order_with_draws_of_their_own(index: ImageIndex) -> None:
    """Crop and flip, jitter, RandAugment, TrivialAugment; each keyed apart, so that one more moves no other's draws."""
    ids = np.arange(16)
    found = ImageSource(
        index.train,
        24,
        "crop",
        5,
        color_jitter=0.4,
        hue_jitter=0.1,
        rand_augment_ops=1,
        rand_augment_magnitude=9,
        trivial_augment=True,
    )
    for i, pixels in enumerate(ImageSource(index.train, 24, "crop", 5).fetch(ids, 3)):
        expected = color_jitter(pixels.permute(2, 0, 1), generator(5, "color_jitter", 3, i), 0.4, 0.1)
        expected = rand_augment(expected, generator(5, "rand_augment", 3, i), 1, 9)
        expected = trivial_augment(expected, generator(5, "trivial_augment", 3, i)).permute(1, 2, 0)
        assert torch.equal(found.fetch(np.array([i]), 3)[0], expected)
