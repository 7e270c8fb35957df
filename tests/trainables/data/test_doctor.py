"""The data doctor on healthy data, and its parts."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data.doctor.check_moments import moments, normalised
from trainables.data.doctor.examine import examine
from trainables.data.doctor.facts import jpeg_quality
from trainables.data.doctor.finding import MAX_FILES, at_least
from trainables.data.doctor.pixel_facts import PixelFacts, pixel_facts
from trainables.data.doctor.similar import SIMILAR, similar_groups
from trainables.data.doctor.statistics import effect
from trainables.data.doctor.survey import survey
from trainables.data.index import ImageIndex, Listing, Split, list_images
from trainables.data.spacing import evenly_spaced
from trainables.data.store import Encoded, Store
from trainables.data_config import DataConfig
from trainables.rng import generator

TinyImages = Callable[..., Path]
Change = Callable[[Path], None]


def above_info(root: Path, **data: object) -> list[str]:
    """Checks that find something above info."""
    found = examine(list_images(str(root)), DataConfig.parse(data), threads=2)
    return [finding.check for finding in at_least(found, "warning")]


def photos(source: Path, root: Path, train: int = 12, val: int = 10) -> Path:
    """A copy of some photos of each class."""
    for split, count in (("train", train), ("val", val)):
        for folder in (source / split).iterdir():
            (root / split / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, root / split / folder.name)
    return root


def test_the_digits_are_clean(digits_index: ImageIndex) -> None:
    """Nothing above info under any image size that they have pixels for."""
    found = examine(digits_index, DataConfig(), threads=2)
    assert at_least(found, "warning") == []
    assert {finding.check for finding in found} == {"moments", "classes"}


def test_the_photos_are_clean_but_for_what_they_have(clothing: Path) -> None:
    """Of 3,409 real photos one is there under two classes, stored anew: a pair among so many is an info."""
    found = examine(list_images(str(clothing)), DataConfig(image_size=128), threads=2)
    assert at_least(found, "warning") == []
    conflict = next(finding for finding in found if finding.check == "near_label_conflict")
    assert {Path(file.location).parent.name for file in conflict.files} == {"shorts", "skirt"}
    assert conflict.count == 2


def test_originals_are_known_again(shared_data: Path, clothing: Path, tmp_path: Path) -> None:
    """Each of forty photos at 400 px and more is found among 235 that were made smaller and stored anew."""
    originals = shared_data / "clothing" / "fullsize"
    if not originals.is_dir():
        pytest.skip("the original photos (../shared/data/clothing/fullsize beside the repository) are absent")
    for name in ("hat", "skirt"):
        for split, source in (("train", clothing / "train"), ("val", originals)):
            (tmp_path / "photos" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / split / name).symlink_to(source / name)
    found = examine(list_images(str(tmp_path / "photos")), DataConfig(), threads=2)
    overlap = next(finding for finding in found if finding.check == "near_overlap")
    assert (overlap.severity, overlap.count) == ("error", 80)


def mirror(root: Path) -> None:
    """Some images once more, mirrored: another picture to the model that flips none."""
    for path in sorted((root / "train").glob("*/*"))[::20]:
        with Image.open(path) as image:
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path.with_stem(f"m{path.stem}"))


def cut(root: Path) -> None:
    """Some images once more, as a narrower view of the same thing."""
    for path in sorted((root / "train").glob("*/*"))[::20]:
        with Image.open(path) as image:
            image.crop((20, 20, image.width - 20, image.height - 20)).save(path.with_stem(f"c{path.stem}"))


def all_grey(root: Path) -> None:
    """All images without colour."""
    for path in root.glob("*/*/*"):
        with Image.open(path) as image:
            image.convert("L").save(path, quality=90)


def progressive(root: Path) -> None:
    """Some JPEGs stored progressively, and a little smaller."""
    for path in sorted((root / "val").glob("*/*")):
        with Image.open(path) as image:
            image.save(path, quality=80, progressive=True)


def on_white(root: Path) -> None:
    """Some products on a white page that fills three quarters."""
    for path in sorted((root / "train").glob("*/*"))[::9]:
        with Image.open(path) as image:
            page = Image.new("RGB", image.size, "white")
            page.paste(image.resize((image.width // 2, image.height // 2)), (image.width // 4, image.height // 4))
        page.save(path, quality=90)


def brighter(root: Path) -> None:
    """A slightly brighter val/, as another afternoon makes it."""
    for path in (root / "val").glob("*/*"):
        with Image.open(path) as image:
            image.point(lambda level: min(255, round(level * 1.04))).save(path, quality=90)


@pytest.mark.parametrize("change", [mirror, cut, all_grey, progressive, on_white, brighter])
def test_a_healthy_change_is_no_fault(change: Change, clothing: Path, tmp_path: Path) -> None:
    """What good data sets have gets an info at most."""
    root = photos(clothing, tmp_path / "photos")
    change(root)
    assert above_info(root) == []


def test_imagenets_numbers_are_no_fault(clothing: Path, tmp_path: Path) -> None:
    """Other photos normalised by ImageNet's moments, as fine-tuning needs it, get an info with what comes out."""
    root = photos(clothing, tmp_path / "photos")
    found = examine(list_images(str(root)), DataConfig(normalization="imagenet"))
    assert [finding.severity for finding in found if finding.check == "normalization"] == ["info"]


def test_imbalance(tiny_images: TinyImages) -> None:
    """A class with twenty times the images of another is a warning, whatever the limit; with ten times it is none."""
    root = tiny_images(("a", "b"), train=10, val=10)
    for i in range(200):
        shutil.copy(root / "train" / "a" / "000.png", root / "train" / "a" / f"more{i}.png")
        if i in (80, 199):
            found = examine(list_images(str(root)), DataConfig(), limit=10)
            assert ("imbalance" in [finding.check for finding in at_least(found, "warning")]) == (i == 199)


@dataclass
class CountingStore:
    """A store that counts how often each image is read."""

    inner: Store
    names: tuple[str, ...] = ()
    reads: list[int] = field(default_factory=list)

    def locate(self, place: int) -> str:
        """As the store has it."""
        return self.inner.locate(place)

    def read(self, place: int) -> Encoded:
        """Hand out a view that can't be written, as a memory map does."""
        self.reads.append(place)
        encoded = self.inner.read(place)
        encoded.flags.writeable = False
        return encoded


def test_any_store_is_read_once(tiny_images: TinyImages) -> None:
    """Names, places and bytes are all that is asked of a store; each image is read once."""
    listing = list_images(str(tiny_images(train=10, val=10)))
    stores = [CountingStore(split.store, tuple(split.store.names)) for split in (listing.train, listing.val)]
    splits = [Split(store, split.labels) for store, split in zip(stores, (listing.train, listing.val), strict=True)]
    again = Listing(listing.root, listing.classes, *splits)
    assert examine(again, DataConfig(), threads=2) == examine(listing, DataConfig())
    assert [sorted(store.reads) for store in stores] == [list(range(20)), list(range(20))]


def test_threads_change_nothing(digits_index: ImageIndex) -> None:
    """The same records in the same order."""
    alone, many = (survey(digits_index, limit=60, threads=threads) for threads in (0, 3))
    assert alone.train.facts == many.train.facts
    assert alone.val.facts == many.val.facts


def test_a_limit_takes_images_of_every_class(digits_index: ImageIndex) -> None:
    """Evenly spaced ones; progress counts those that are read."""
    told: list[tuple[int, int]] = []
    seen = survey(digits_index, limit=40, threads=1, progress=lambda done, total: told.append((done, total)))
    assert len({one.label for one in seen.train.facts}) == 10
    assert told == [(done, 80) for done in range(1, 81)]
    assert list(evenly_spaced(5, 10)) == [0, 1, 2, 3, 4]


def test_a_finding_names_some_and_counts_all(tiny_images: TinyImages) -> None:
    """Of thirty black images the first twenty are named."""
    root = tiny_images(train=30, val=10)
    for path in (root / "train" / "dog").iterdir():
        Image.new("RGB", (40, 32)).save(path)
    (blank,) = at_least(examine(list_images(str(root)), DataConfig()), "warning")
    assert (blank.check, len(blank.files), blank.count) == ("blank", MAX_FILES, 30)


def test_moments_are_those_of_the_index(digits_index: ImageIndex) -> None:
    """From the records come the moments that `channel_statistics` counts pixel by pixel."""
    found = moments(survey(digits_index, limit=None, threads=2).train)
    assert found is not None
    np.testing.assert_allclose(found.mean, digits_index.channel_mean, atol=1e-6)
    np.testing.assert_allclose(found.std, digits_index.channel_std, atol=1e-6)
    own = normalised(found, DataConfig())
    np.testing.assert_allclose((own.mean, own.std), ([0.0] * 3, [1.0] * 3), atol=1e-6)


@pytest.mark.parametrize("quality", [25, 50, 75, 90, 100])
def test_the_quality_of_a_jpeg(quality: int) -> None:
    """Read off its table, within what the rounding of its 64 values leaves."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        tables: dict[int, list[int]] = image.quantization  # type: ignore[attr-defined] # of JpegImageFile
    assert jpeg_quality(tables[0]) == pytest.approx(quality, abs=1.0)


def noise(count: int) -> list[PixelFacts]:
    """Facts with random smooth thumbnails."""
    rng = generator("noise")
    made = []
    for _ in range(count):
        coarse = torch.from_numpy(rng.integers(0, 256, (3, 4, 4), dtype=np.uint8))
        made.append(pixel_facts(coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)))
    return made


def test_lookalikes_are_found_as_by_comparing_all() -> None:
    """Among 600 pictures, 200 of them with faint noise added, hashing finds the groups that all pairs give."""
    images = noise(600)
    rng = generator("faint")
    for place in range(200):
        stored = np.frombuffer(images[place].thumbnail, np.uint8).astype(np.float64)
        faint = np.clip(stored + rng.normal(0, 2.0, stored.shape), 0, 255).astype(np.uint8)
        images.append(replace(images[place], thumbnail=faint.tobytes()))
    vectors = np.stack([np.frombuffer(image.thumbnail, np.uint8) for image in images]).astype(np.float64)
    close = np.argwhere(np.triu(np.corrcoef(vectors) >= SIMILAR, 1)).tolist()
    assert len(close) > 150
    assert similar_groups(images) == close


def test_flat_images_are_like_none() -> None:
    """A thumbnail without anything in it correlates with nothing; no images have no groups."""
    flat = pixel_facts(torch.full((3, 20, 20), 90, dtype=torch.uint8))
    assert similar_groups([flat, flat]) == []
    assert similar_groups([]) == []


def test_effect() -> None:
    """The difference in spreads and in standard errors; none is told of few images, nor of equal constants."""
    first, second = np.array([0.0, 2.0] * 50), np.array([1.0, 3.0] * 50)
    assert effect(first, second) == pytest.approx((1.0, 50**0.5))
    assert effect(first[:9], second) == (0.0, 0.0)
    assert effect(np.ones(20), np.ones(20)) == (0.0, 0.0)
    assert effect(np.ones(20), np.zeros(20)) == (-np.inf, -np.inf)


def test_one_pixel_has_facts() -> None:
    """The smallest image, and a column, have no neighbours to differ from."""
    for shape in ((3, 1, 1), (3, 5, 1)):
        facts = pixel_facts(torch.zeros(shape, dtype=torch.uint8))
        assert (facts.width, facts.height, facts.detail, facts.flat_end) == (1, shape[1], 0.0, 0.0)


def test_nothing_decodes(tiny_images: TinyImages) -> None:
    """A set of broken files has findings, not an exception."""
    root = tiny_images(train=10, val=10)
    for path in root.glob("*/*/*"):
        path.write_bytes(b"")
    assert above_info(root) == ["undecodable", "undecodable"]
