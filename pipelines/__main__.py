"""`python -m pipelines` is `epoch14`."""

import sys

from pipelines.cli import main

sys.exit(main())
