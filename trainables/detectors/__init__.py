"""From signals to a symptom: whether a run is ill, since when, and how. One rule a file; `detector.py` asks them all.

    non_finite    loss or gradient is not finite
    spike         the loss leaves its baseline suddenly and stays out for several steps
    divergence    the loss drifts up, or the run sits far above chance
    collapse      the loss settles at chance level after having been well below it
    stall         the loss never left chance, long after the warm-up
    instability   worse than guessing and erratic for a long stretch, with no single event
    input_shift   the input's channel moments leave their baseline, which batch norm hides from the loss
    wrong_update  the weights moved otherwise than by one step of the optimizer's rule
    ranks_apart   the ranks hold different weights
    eval_gap      training is fine and evaluation is not

Scores are in units of the run's own noise: the larger of the scatter of recent steps (median absolute deviation) and
the standard error of a batch mean that the per-sample losses give, with a floor relative to chance. Points that are
suspicious never enter the baseline, so an outlier can't hide itself or the next one; a step that is not finite enters
nothing.

Rules count observations, not step numbers: a log with a row each 100 steps is judged as one with a row a step.
"""

from trainables.detectors.detector import Detector
from trainables.detectors.eval_gap import EvaluationSignals
from trainables.detectors.symptom import Symptom, SymptomKind

__all__ = ["Detector", "EvaluationSignals", "Symptom", "SymptomKind"]
