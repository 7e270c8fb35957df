"""The reference value of every ingredient, as a swap.

References come from the config, the data index, the plain step and what the run recorded, never from an injector.
"""

from trainables.diagnosis.references.choose import Reference, choose_references, foreign_since, rate_candidates
from trainables.diagnosis.references.declared import declared_references
from trainables.diagnosis.references.rates import (
    LADDER,
    LOOK_BACK,
    RateReference,
    last_change_point,
    rate_before,
    rate_divided,
)
from trainables.diagnosis.references.same import first_difference
from trainables.diagnosis.references.samples import (
    CLEAN_BATCH,
    MERGED_BATCH,
    clean_ingredients,
    merged_batch_size,
    sample_pool,
)

__all__ = [
    "CLEAN_BATCH",
    "LADDER",
    "LOOK_BACK",
    "MERGED_BATCH",
    "RateReference",
    "Reference",
    "choose_references",
    "clean_ingredients",
    "declared_references",
    "first_difference",
    "foreign_since",
    "last_change_point",
    "merged_batch_size",
    "rate_before",
    "rate_candidates",
    "rate_divided",
    "sample_pool",
]
