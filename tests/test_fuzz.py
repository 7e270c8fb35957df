"""The input path takes whatever bytes it is given; `make bench-fuzz` is the long version of this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parent / "benchmarks" / "fuzz.py"


def test_mutated_jpegs_and_shards_decode_or_are_one_line() -> None:
    """300 JPEGs through both decoders and 50 folders of shards: no crash, no hang, bounded memory."""
    ended = subprocess.run(
        [sys.executable, str(FUZZ), "--jpegs", "300", "--shards", "50"], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "jpegs: 300 items" in ended.stdout
    assert "shards: 50 items" in ended.stdout
