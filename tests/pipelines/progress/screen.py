"""A terminal of a command: a real pty, and what a person sees on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

CONTROL = re.compile(r"\x1b\[(\?25[hl]|[\d;]*[A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")
CTRL_C = b"\x03"
LOGIN = "import os, sys; os.login_tty(0); os.execvp(sys.argv[1], sys.argv[1:])"


def seen(output: str) -> list[str]:
    """The lines that stand there after `output`, those that have scrolled away included.

    Knows what rich draws with: colours, the cursor up, a line erased, the cursor hidden; anything else is an error.
    """
    lines, row, column = [""], 0, 0
    for code, start, feed, text in CONTROL.findall(output):
        if text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        elif start:
            column = 0
        elif feed:
            row += 1
            lines += [""] * (row == len(lines))
        elif code.endswith("A"):
            row -= int(code[:-1] or 1)
        elif code == "2K":
            lines[row] = ""
        else:
            assert code in ("?25h", "?25l") or code.endswith("m"), code
    return lines


class Terminal:
    """A command on a pty of its own, whose session it leads: a Ctrl-C reaches all that it starts."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], size: tuple[int, int] = (24, 100)
    ) -> None:
        self._end, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOGIN, *command],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self.output = ""

    def wait_for(self, there: Callable[[list[str]], bool], limit_s: float = 120.0) -> list[str]:
        """What is seen as soon as it is what is waited for."""
        deadline = time.monotonic() + limit_s
        while not there(shown := seen(self.output)):
            assert time.monotonic() < deadline, "\n".join(shown)
            assert self._read(), "\n".join(shown)
        return shown

    def wait(self, limit_s: float = 120.0) -> int:
        """Exit code."""
        deadline = time.monotonic() + limit_s
        while self._read():
            assert time.monotonic() < deadline, self.output
        os.close(self._end)
        return self.process.wait(timeout=limit_s)

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._end, keys)

    def _read(self) -> bool:
        """Take what has come within a moment; whether more may come."""
        if not select.select([self._end], [], [], 0.2)[0]:
            return True
        with contextlib.suppress(OSError):
            part = os.read(self._end, 65_536)
            self.output += part.decode(errors="replace")
            return bool(part)
        return False
