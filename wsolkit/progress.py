"""Whether a progress bar makes sense: somebody has to look at it."""

from __future__ import annotations

import os
import sys


def watched() -> bool:
    """A person is watching: a terminal, or a notebook that is not run in batch."""
    return sys.stderr.isatty() or ("ipykernel" in sys.modules and not os.environ.get("WSOLKIT_BATCH"))
