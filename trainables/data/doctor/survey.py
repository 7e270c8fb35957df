"""One pass over a data set: each image is read and decoded once, by threads, into a record."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainables.data.doctor.blank import shows_something
from trainables.data.doctor.facts import ImageFacts, read_facts
from trainables.data.doctor.finding import File, SplitName
from trainables.data.doctor.similar import similar_groups
from trainables.data.index import Listing, Split
from trainables.data.prefetch import Prefetcher
from trainables.data.spacing import evenly_spaced

Group = list[tuple["SplitFacts", ImageFacts]]
AHEAD = 4
"""Images in the making for each thread: bounds the memory."""


@dataclass(frozen=True)
class SplitFacts:
    """The records of one split."""

    name: SplitName
    split: Split
    facts: tuple[ImageFacts, ...]

    @cached_property
    def decoded(self) -> list[ImageFacts]:
        """Those with pixels."""
        return [facts for facts in self.facts if facts.pixels is not None]

    @cached_property
    def shown(self) -> list[ImageFacts]:
        """Those that show something."""
        return [facts for facts in self.decoded if shows_something(facts.pixels)]

    def files(self, facts: Sequence[ImageFacts]) -> list[File]:
        """The images of these records."""
        return [File(self.name, one.place, self.split.store.locate(one.place)) for one in facts]


@dataclass(frozen=True)
class Survey:
    """The records of a data set."""

    listing: Listing
    train: SplitFacts
    val: SplitFacts

    @property
    def splits(self) -> tuple[SplitFacts, SplitFacts]:
        """Train, val."""
        return self.train, self.val

    @cached_property
    def images(self) -> list[tuple[SplitFacts, ImageFacts]]:
        """All images that show something, train first."""
        return [(part, one) for part in self.splits for one in part.shown]

    @cached_property
    def copies(self) -> list[Group]:
        """Images with the same bytes."""
        by_digest: dict[bytes, Group] = {}
        for part, one in self.images:
            by_digest.setdefault(one.digest, []).append((part, one))
        return [group for group in by_digest.values() if len(group) > 1]

    @cached_property
    def lookalikes(self) -> list[Group]:
        """Images that show the same and differ in their bytes; of copies, the first stands for all."""
        first = list({one.digest: (part, one) for part, one in reversed(self.images)}.values())
        shown = [one.pixels for _, one in first if one.pixels is not None]
        return [[first[place] for place in group] for group in similar_groups(shown)]


def survey(
    listing: Listing, *, limit: int | None, threads: int, progress: Callable[[int, int], None] | None = None
) -> Survey:
    """Read the images of a data set.

    Args:
        listing: the data set.
        limit: images that are read of each split, evenly spaced; None: all.
        threads: threads that decode.
        progress: called with the images done and the images in all, after each image.

    """
    chosen = [evenly_spaced(len(split), limit) for split in (listing.train, listing.val)]
    total = sum(len(places) for places in chosen)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    with warnings.catch_warnings():
        # Pillow warns of odd headers and of large images; what matters of them is a finding.
        warnings.simplefilter("ignore")
        train = SplitFacts("train", listing.train, tuple(_read(listing.train, chosen[0], threads, tell, 0)))
        val = SplitFacts("val", listing.val, tuple(_read(listing.val, chosen[1], threads, tell, len(chosen[0]))))
    return Survey(listing, train, val)


def _read(
    split: Split, places: Sequence[int], threads: int, tell: Callable[[int], None], done: int
) -> Iterator[ImageFacts]:
    def fetch(step: int) -> ImageFacts:
        place = places[step]
        return read_facts(split.store, place, int(split.labels[place]))

    with Prefetcher(fetch, threads, ahead=AHEAD * threads, stop_step=len(places)) as ahead:
        for step in range(len(places)):
            yield ahead.get(step)
            tell(done + step + 1)
