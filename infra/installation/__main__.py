"""`python -m infra.installation CHECK FOLDER`: run one check for the command that started this process."""

import sys
from pathlib import Path

from infra.installation.examine import run_check

name, folder = sys.argv[1:]
run_check(name, Path(folder))
