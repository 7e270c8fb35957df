"""A data set to findings: one pass over its images, then every check."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainables.data.doctor.check_channels import check_channels
from trainables.data.doctor.check_copies import check_copies
from trainables.data.doctor.check_files import check_files
from trainables.data.doctor.check_labels import check_labels
from trainables.data.doctor.check_moments import check_moments
from trainables.data.doctor.check_sizes import check_sizes
from trainables.data.doctor.check_splits import check_splits
from trainables.data.doctor.check_values import check_values
from trainables.data.doctor.finding import SEVERITIES, Finding
from trainables.data.doctor.survey import Survey, survey
from trainables.data.index import Listing
from trainables.data_config import DataConfig

Check = Callable[[Survey, DataConfig], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    check_files,
    check_values,
    check_channels,
    check_moments,
    check_copies,
    check_labels,
    check_splits,
    check_sizes,
)


def examine(
    listing: Listing,
    data: DataConfig,
    *,
    limit: int | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Finding]:
    """Find what is wrong with a data set, before a training meets it.

    Order by class is not checked: the sampler shuffles all of a split, so that it plays no part.

    Args:
        listing: the data set.
        data: how its pixels are to be normalised and resized.
        limit: images that are read of each split, evenly spaced, which finds fewer copies; None: all.
        threads: threads that decode; 0 decodes in this one.
        progress: called with the images done and the images in all, after each image.

    Returns:
        Findings, the worst first. Images that can't be read or decoded are findings too.

    """
    seen = survey(listing, limit=limit, threads=threads, progress=progress)
    return findings_of(seen, data)


def findings_of(seen: Survey, data: DataConfig) -> list[Finding]:
    """What every check says of a survey, the worst first."""
    found = [finding for check in CHECKS for finding in check(seen, data)]
    return sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity))
