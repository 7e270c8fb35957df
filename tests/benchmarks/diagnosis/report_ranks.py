"""The tables of the faults on 1 and on 2 ranks: rows of results -> Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tests.benchmarks.diagnosis.report import share, table
from tests.benchmarks.diagnosis.results import Row
from tests.benchmarks.diagnosis.scoring import cause_of, right_cause, right_layer, right_rank

UNSEEN = "nothing seen"


def on_ranks_section(rows: Sequence[Row]) -> str:
    """The section; nothing where there are no rows."""
    if not rows:
        return ""
    broken = [row for row in rows if "crash" in row or "error" in row]
    runs: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if row not in broken:
            runs[row["base"], row["fault"]][row["world"]] = row
    pairs = [found for found in runs.values() if {1, 2} <= set(found)]
    single = [row for found in runs.values() for row in found.values() if row["world"] > 1 and row["rank"] is not None]
    lines = ["", "## On 1 and 2 ranks", "", *compared(pairs), "", "### Faults of one rank", "", *one_rank(single)]
    lines += ["", *(f"- {row['case']}: {row.get('crash') or row['error']}" for row in broken)] if broken else []
    return "\n".join(lines) + "\n"


def compared(pairs: Sequence[dict[int, Row]]) -> list[str]:
    """Each fault on both numbers of ranks, and whether the same is said of it."""
    lines = [
        (f"{one['base']}/{one['fault']}", one["where"], said(one), said(two), "yes" if said(one) == said(two) else "no")
        for one, two in ((found[1], found[2]) for found in pairs)
    ]
    seen = [found for found in pairs if any(row["symptom"] for row in found.values())]
    same = share([cause_of(found[1]) == cause_of(found[2]) for found in seen])
    right = {world: [right_cause(found[world]) for found in seen if found[world]["right"]] for world in (1, 2)}
    agree = share([bool(found[2]["ranks_agree"]) for found in pairs])
    summary = f"Same cause, of the faults seen on either: {same}. Right cause: {share(right[1])} on 1 rank, "
    summary += f"{share(right[2])} on 2. Both ranks of 2 came to one verdict: {agree}."
    return [*table(("fault", "where", "cause on 1", "cause on 2", "same?"), lines), "", summary]


def one_rank(rows: Sequence[Row]) -> list[str]:
    """Each fault that acts on one of two ranks: what is named, and whether rank and layer are right."""
    lines = []
    for row in rows:
        verdict = row["verdict"] or {"rank": None, "layer": ""}
        rank = f"{'-' if verdict['rank'] is None else verdict['rank']} of {row['rank']}"
        layer = f"{verdict['layer'] or '-'} of {row['layer']}" if row["layer"] else ""
        lines.append((f"{row['base']}/{row['fault']}", row["where"], said(row), rank, layer))
    judged = [row for row in rows if row["verdict"]]
    ranks, cause = share([right_rank(row) for row in judged]), share([right_cause(row) for row in judged])
    found = share([right_layer(row) for row in judged if row["layer"]])
    summary = f"Of {len(judged)} verdicts on {len(rows)} such faults: right rank {ranks}, right layer {found}, "
    head = ("fault", "where", "cause", "rank named of the true one", "layer named of the true one")
    return [*table(head, lines), "", f"{summary}right cause {cause}."]


def said(row: Row) -> str:
    """The cause that was named, or that there was nothing."""
    return cause_of(row) or UNSEEN
