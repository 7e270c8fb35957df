"""What a store did not take is kept as JSONL beside the sweep's storage, and can be written later.

The command is `python -m infra.tracking_kept FILE [URI]`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from infra.tracking import check_tracking, without_password
from infra.tracking_records import from_json, to_json
from infra.tracking_runs import RunRecorder
from infra.tracking_writer import Unwritten
from trainables.errors import Epoch14Error, TrackingError, complaint, error_line


def keep(unwritten: Sequence[Unwritten], folder: Path, sweep: dict[str, str | None]) -> Path:
    """Write a new file in `folder`: the sweep (uri, experiment, name, parent_run_id), then a record a line."""
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]", "_", sweep["name"] or "sweep")
    file = folder / f"unwritten-{name}-{time.time_ns()}.jsonl"
    head = {
        **sweep,
        "uri": without_password(sweep["uri"] or ""),
        "reasons": sorted({item.reason for item in unwritten}),
    }
    with file.open("x", encoding="utf-8") as lines:
        lines.write(json.dumps(head) + "\n")
        lines.writelines(to_json(item.record) + "\n" for item in unwritten)
    return file


def write_kept(file: Path, uri: str | None = None) -> int:
    """Apply the records of `file` to the store that they were meant for, or to `uri`; returns how many.

    Applying a file twice changes nothing. Raises TrackingError.
    """
    try:
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        sweep = json.loads(head)
        records = [from_json(line) for line in lines]
        uri = uri or sweep["uri"]
        check_tracking(uri)
        recorder = RunRecorder(uri, sweep["experiment"], sweep["name"])
        recorder.parent_run_id = sweep["parent_run_id"]
    except Epoch14Error:
        raise
    except (OSError, ValueError, KeyError) as error:
        allowed = f"a file that a sweep left ({error})"
        raise TrackingError(complaint("FILE", str(file), allowed, "name an unwritten-*.jsonl")) from None
    for record in records:
        recorder.apply(record)
    return len(records)


def main(arguments: Sequence[str]) -> int:
    """Command line; returns its exit code."""
    try:
        count = write_kept(Path(arguments[0]), *arguments[1:2]) if arguments else None
    except Epoch14Error as error:
        sys.stderr.write(f"{error_line(error)}\n")
        return error.exit_code
    sys.stdout.write(f"{count} records written\n" if count is not None else f"{__doc__}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
