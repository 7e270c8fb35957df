"""A fault that changes nothing: it writes down which node ran which step, and holds one step until it is let go."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.ranks import Ranks


def witness(recipe: Any, *, folder: str, name: str, hold: int) -> Callable[[Any], Any]:
    """Each rank appends a line a step to FOLDER/NAME-RANK.jsonl, and stays in `hold` until FOLDER/NAME.go is there."""
    del recipe
    file = Path(folder, f"{name}-{Ranks.current().rank}.jsonl")

    def write(ingredients: Any) -> Any:
        with file.open("a", encoding="utf-8") as lines:
            lines.write(
                json.dumps({"step": ingredients.step, "node": socket.gethostname(), "process": os.getpid()}) + "\n"
            )
        while ingredients.step == hold and not Path(folder, f"{name}.go").exists():
            time.sleep(0.1)
        return ingredients

    return write
