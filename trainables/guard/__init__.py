"""A guard for anyone's PyTorch loop: watch the loss, find by replay why it blew up, and go on or stop."""

from trainables.guard.guard import GuardSettings, SpikeError, SpikeGuard
from trainables.guard.stepper import Mixed
from trainables.guard.verdict import GuardDiagnosis

__all__ = ["GuardDiagnosis", "GuardSettings", "Mixed", "SpikeError", "SpikeGuard"]
