"""The tables: rows of results -> Markdown."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmarks.diagnosis.results import Row
from tests.benchmarks.diagnosis.scoring import (
    PER_SAMPLE,
    abstained,
    cause_of,
    culprit_counts,
    detected,
    harmful,
    is_control,
    non_finite,
    right_cause,
    right_group,
    right_layer,
)
from tests.benchmarks.diagnosis.statistics import best_stretch, brier_skill, interval, log_loss, reliability
from tests.benchmarks.diagnosis.variant import BELOW
from tests.benchmarks.published import RULES, first_alarm
from trainables.diagnosis.confidence import PIVOT

MARK = "<!-- What follows is written by --report. -->"
SURE = 0.9
"""A wrong verdict above this confidence is a grave one."""
PARTS = ("report", "tune")
TRAININGS = {"5,000 steps": 5_000, "90 epochs of ImageNet at a batch of 256": 90 * 1_281_167 // 256}
"""Steps of two trainings that a diagnosis is compared with."""


def renewed(path: Path, tables: str) -> str:
    """The file with new tables: what was written by hand, above MARK, stays."""
    known, mark, _ = path.read_text().partition(MARK) if path.exists() else ("", "", "")
    return (known if mark else "# The benchmark of the diagnosis engine\n\n") + MARK + "\n" + tables


def write_report(rows: Sequence[Row], outcomes: Sequence[Row]) -> str:
    """Both parts, each with its own figures; what is tuned on one is reported on the other."""
    broken = [row for row in rows if "crash" in row or "error" in row]
    sound = [row for row in rows if row not in broken]
    followed = [row for row in outcomes if "symptom" in row]
    lines = [f"`make bench-diagnosis`: {len(rows)} cases, of which {len(broken)} broke off."]
    for part in PARTS:
        mine = [row for row in sound if row["part"] == part]
        if mine:
            longer = [row for row in followed if row["part"] == part]
            lines += ["", f"## The {part} part", *part_of(mine, longer)]
    lines += ["", "## Cases that broke off", ""]
    lines += [f"- {row['case']}: {row.get('crash') or row['error']}" for row in broken] or ["none"]
    return "\n".join(lines) + "\n"


def part_of(rows: Sequence[Row], longer: Sequence[Row]) -> list[str]:
    """The sections of one part; longer: what was followed for the outcome."""
    faults = [row for row in rows if not is_control(row)]
    verdicts = [row for row in faults if row.get("verdict")]
    sections = [
        ("Detection", detection(rows, faults, longer)),
        ("Diagnosis", diagnosis(verdicts)),
        ("Calibration", calibration(verdicts)),
        ("By fault", by_fault(rows)),
        ("Confusion", confusion(verdicts)),
    ]
    return [line for title, table in sections for line in ("", f"### {title}", "", *table)]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def share(values: Sequence[bool]) -> str:
    """`3/4 (75 %, 30 to 100)`: count, share and its interval."""
    if not values:
        return "0/0"
    low, high = interval([float(value) for value in values])
    return f"{sum(values)}/{len(values)} ({sum(values) / len(values):.0%}, {100 * low:.0f} to {100 * high:.0f})"


def detection(rows: Sequence[Row], faults: Sequence[Row], longer: Sequence[Row]) -> list[str]:
    """The detector beside the published rules, on the same losses."""
    changes = harmful(longer)
    must = [row for row in faults if non_finite(row)]
    must += [row for row in longer if changes.get((row["base"], row["fault"]))]
    quiet = [row for row in rows if is_control(row)]
    early = [row for row in faults if row["symptom"] is not None and not detected(row)]

    def line(name: str, alarm: Callable[[Row], int | None]) -> list[object]:
        delays = [delay for row in faults if (delay := delay_of(row, alarm)) is not None]
        return [
            name,
            share([delay_of(row, alarm) is not None for row in faults]),
            share([delay_of(row, alarm) is not None for row in must]),
            f"{sum(alarm(row) is not None for row in quiet)}/{len(quiet)}",
            median(delays) if delays else "-",
        ]

    lines = [line("epoch14", lambda row: row["symptom"]["step"] if row["symptom"] else None)]
    lines += [line(name, partial(published, name)) for name in RULES]
    head = ("rule", "faults seen", "of those that must be", "controls alarmed", "median delay in steps")
    said = (
        "Must be seen: faults that end non-finite, and those that were measured (--outcome) to change the outcome, in "
    )
    said += f"those longer runs. {len(early)} alarms came before their fault."
    pairs = sorted(f"{base}/{fault}" for (base, fault), changed in changes.items() if changed)
    missed = sorted({f"{r['base']}/{r['fault']}/{r['seed']}" for r in must if not detected(r)})
    told = f"{len(changes)} faults were followed over five seeds, {len(pairs)} change the outcome. Missed: "
    return [*table(head, lines), "", said, "", f"{told}{', '.join(missed) or 'none'}."]


def published(name: str, row: Row) -> int | None:
    """Step at which a published rule first speaks."""
    return first_alarm(RULES[name], row["losses"])


def delay_of(row: Row, alarm: Callable[[Row], int | None]) -> int | None:
    """Steps from the onset to the alarm; None: there was none, or before it."""
    step = alarm(row)
    return None if step is None or step < row["onset"] else step - int(row["onset"])


def diagnosis(verdicts: Sequence[Row]) -> list[str]:
    """Right, wrong, abstained, with what it cost; above and below the seam apart."""
    head = (
        "injected",
        "verdicts",
        "right group",
        "right cause",
        f"wrong above {SURE}",
        "unexplained",
        "verified",
        "cured",
    )
    below = [row for row in verdicts if row["where"] in BELOW]
    above = [row for row in verdicts if row["where"] not in BELOW]
    lines = [diagnosis_line(n, r) for n, r in (("at the seam", above), ("below it", below), ("all", list(verdicts)))]
    if not verdicts:
        return table(head, lines)
    return [*table(head, lines), "", *costs(verdicts), "", culprits(verdicts), "", layers(verdicts)]


def costs(verdicts: Sequence[Row]) -> list[str]:
    """Replayed steps and seconds of a diagnosis, and its share of two trainings."""
    steps, seconds = (sorted(row["verdict"][key] for row in verdicts) for key in ("replayed_steps", "seconds"))
    lines = [
        (name, count, *(f"{count / whole:.2%}" for whole in TRAININGS.values()), f"{took:.1f}")
        for name, count, took in (("median", median(steps), median(seconds)), ("most", steps[-1], seconds[-1]))
    ]
    return table(("cost of a diagnosis", "replayed steps", *(f"of {name}" for name in TRAININGS), "seconds"), lines)


def diagnosis_line(name: str, rows: Sequence[Row]) -> list[object]:
    """One row of the table."""
    wrong = [r["verdict"]["confidence"] > SURE and not right_cause(r) and not abstained(r) for r in rows]
    named = [row for row in rows if not abstained(row)]
    return [
        name,
        len(rows),
        share([right_group(row) for row in rows]),
        f"{share([right_cause(row) for row in rows])}; of those named {share([right_cause(row) for row in named])}",
        share(wrong),
        share([abstained(row) for row in rows]),
        f"{sum(row['verdict']['verified'] for row in rows)}/{len(rows)}",
        cured(rows),
    ]


def cured(rows: Sequence[Row]) -> str:
    """Runs that went back and on with a verified cure: healthy to the end, of how many; top-1 lost against healthy."""
    again = [row for row in rows if "cured" in row]
    if not again:
        return "0/0"
    lost = [100 * (row["healthy_top1"] - row["cured"]["top1"]) for row in again]
    low, high = interval(lost)
    return f"{share([row['cured']['symptom'] is None for row in again])}; {low:.0f} to {high:.0f} points lost"


def culprits(verdicts: Sequence[Row]) -> str:
    """Precision and recall over the samples that rightly named causes point at."""
    rows = [row for row in verdicts if right_cause(row) and row.get("culprits") and cause_of(row) in PER_SAMPLE]
    counts = [culprit_counts(row) for row in rows]
    hit, named, bad = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
    precision, recall = (f"{hit / of:.2f}" if of else "-" for of in (named, bad))
    return f"Culprits, of {len(rows)} verdicts that name samples: precision {precision}, recall {recall}."


def layers(verdicts: Sequence[Row]) -> str:
    """Share of the right parameter where the fault hit one, of rows that recorded what was named."""
    rows = [row for row in verdicts if row.get("layer") and "layer" in row["verdict"]]
    return f"Layers, of the faults that hit one parameter: right {share([right_layer(row) for row in rows])}."


def calibration(verdicts: Sequence[Row]) -> list[str]:
    """Reliability in bins of equal mass; an abstention counts as not right."""
    confidences = [row["verdict"]["confidence"] for row in verdicts]
    right = [right_cause(row) for row in verdicts]
    if not right:
        return ["no verdicts"]
    covered = share([not abstained(row) for row in verdicts])
    lines = [
        (b.count, f"{b.confidence:.2f}", f"{b.right:.2f}", f"{b.low:.2f} to {b.high:.2f}")
        for b in reliability(confidences, right)
    ]
    skill = f"Brier skill against the base rate: {brier_skill(confidences, right):.2f}. Coverage: {covered}. "
    skill += f"Logarithmic loss: {log_loss(confidences, right):.3f}, which would be least with "
    skill += f"{best_stretch(confidences, right):.2f} times the log-odds beyond those of {PIVOT}."
    return [*table(("verdicts", "mean confidence", "right", "95 %"), lines), "", skill]


def by_fault(rows: Sequence[Row]) -> list[str]:
    """Each fault: seen, of how many, as what, taken for what."""
    mine: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        mine[row["fault"]].append(row)
    head = ("fault", "where", "right causes", "seen", "as", "taken for", "top-1 lost, points")
    return table(head, [fault_line(name, found) for name, found in mine.items()])


def fault_line(name: str, rows: Sequence[Row]) -> list[object]:
    """One row of the table."""
    seen = [row for row in rows if row["symptom"] is not None]
    lost = median(100 * (row["healthy_top1"] - row["top1"]) for row in rows)
    where = rows[0]["where"] + (", evaluation" if rows[0]["in_evaluation"] else "")
    kinds = counted(row["symptom"]["kind"] for row in seen)
    named = counted(cause_of(row) for row in seen if cause_of(row))
    return [name, where, ", ".join(rows[0]["right"]), f"{len(seen)}/{len(rows)}", kinds, named, f"{lost:.0f}"]


def counted(names: Iterable[str]) -> str:
    """`lr_jump 3, unexplained 1`."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())


def confusion(verdicts: Sequence[Row]) -> list[str]:
    """Injected cause x named cause, where there is any."""
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    for row in verdicts:
        pairs[row["right"][0]][cause_of(row) if not right_cause(row) else row["right"][0]] += 1
    columns = sorted({name for named in pairs.values() for name in named})
    lines = [[cause, *(named[column] or "" for column in columns)] for cause, named in sorted(pairs.items())]
    return table(["injected", *columns], lines)
