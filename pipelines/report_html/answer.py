"""The answer first: each cause that was found, how sure, and the config that a replay has cured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.explanation import number, percent, plain, remedy_text
from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.report_html.reproduce import set_options
from pipelines.report_html.trials import cause, diagnoses, is_ill


@dataclass(frozen=True)
class FoundCause:
    """What made some trials ill."""

    name: str
    trials: int
    sure: str
    """Confidence of the diagnoses, `71 to 93 %`; empty where there is none."""
    summary: str
    """Of the surest diagnosis."""
    remedy: str
    """Empty where no replay proved one."""
    healed: str
    """What the replay with the remedy showed."""
    cured: str
    """The command that trains the cured config; empty where the cure lies outside the config."""
    surest: SweptTrial


def found_causes(sweep: RecordedSweep) -> list[FoundCause]:
    """The causes, the most frequent first."""
    ill = [trial for trial in sweep.trials if is_ill(trial)]
    order = [name for name, _ in Counter(cause(trial) for trial in ill).most_common()]
    return [_found(name, [trial for trial in ill if cause(trial) == name]) for name in order]


def _found(name: str, trials: Sequence[SweptTrial]) -> FoundCause:
    sure = [float(diagnoses(trial)[-1]["confidence"]) for trial in trials if diagnoses(trial)]
    surest = max(trials, key=_rank)
    found = diagnoses(surest)
    diagnosis: Mapping[str, Any] = found[-1] if found else {}
    text, remedy = remedy_text(diagnosis), diagnosis.get("remedy") or {}
    change = remedy.get("change") or {}
    return FoundCause(
        name=name,
        trials=len(trials),
        sure=_span(sure),
        summary=plain(diagnosis.get("summary", "")),
        remedy=text,
        healed=f"a replay with it stays healthy (severity {number(remedy.get('severity'))})" if text else "",
        cured=f"epoch14 train {surest.trial_id} {set_options(change)}" if text and change else "",
        surest=surest,
    )


def _rank(trial: SweptTrial) -> tuple[bool, float]:
    """Diagnoses with a proven remedy first, then the surest."""
    found = diagnoses(trial)
    return (bool(remedy_text(found[-1])), float(found[-1]["confidence"])) if found else (False, -1.0)


def _span(shares: Sequence[float]) -> str:
    if not shares:
        return ""
    low, high = percent(min(shares)), percent(max(shares))
    return high if low == high else f"{low.removesuffix(' %')} to {high}"
