"""What mixing costs: a step whose images are half their neighbours' has a higher loss, and nothing is wrong with it.

Even a perfect model's loss on mixed targets is their entropy; a model that learns pays some multiple of it, one that
guesses nothing. The multiple is the run's own: the slope of the changes of the loss, from step to step, over those of
the entropy. Changes know neither the level nor the trend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainables.step_signals import StepSignals

MEMORY = 60.0
"""Steps after which a change counts 1 / e: while a run leaves chance the cost rises."""
TYPICAL = 0.1
"""Squared change of the entropy between two steps, in nats^2, as mixup and CutMix have it (0.05 to 0.2): one such step
at a cost of 0 is what is believed at first."""
LARGEST = 2.0
"""Change of the loss that counts at most, in nats: a half costs up to 1.7, and no single batch shall make the cost."""


@dataclass
class Mixing:
    """Follows the cost of mixing; O(1) a step, plain data."""

    seen: bool = False
    """Whether there was a step."""
    began: bool = False
    """Whether one was mixed."""
    unknown: int = 0
    """Steps for which the cost is not known yet: mixing has begun in a run that had learned something without."""
    entropy: float = 0.0
    """Of the last step's targets, in nats."""
    loss: float = 0.0
    """The last step's, as it was."""
    squares: float = TYPICAL
    """Faded sum of the squared changes of the entropy."""
    products: float = 0.0
    """Faded sum of these changes times those of the loss."""

    @property
    def cost(self) -> float:
        """Nats of loss a nat of entropy, 0 or more."""
        return max(0.0, self.products / self.squares)

    @property
    def scatter(self) -> float:
        """How much the cost differs from step to step, in nats: the standard deviation of what is taken off."""
        return self.cost * math.sqrt(self.squares / MEMORY / 2.0)

    def take(self, signals: StepSignals, *, patience: int) -> StepSignals | None:
        """Take a finite step; the step as it would have been without mixing, None where that is not known yet.

        `patience`: steps until the cost is known of a mixing that begins in the middle of a run.
        """
        entropy = signals.target_entropy
        if entropy > 0 and not self.began:
            self.began, self.unknown = True, patience if self.seen else 0
        plain = signals.unmixed(self.cost)
        if self.began and self.seen:
            self._learn(entropy - self.entropy, signals.loss - self.loss)
        self.seen, self.entropy, self.loss = True, entropy, signals.loss
        if self.unknown > 0:
            self.unknown -= 1
            return None
        return plain

    def _learn(self, entropy: float, loss: float) -> None:
        kept = 1.0 - 1.0 / MEMORY
        self.squares = kept * self.squares + entropy**2
        self.products = kept * self.products + entropy * max(-LARGEST, min(LARGEST, loss))
