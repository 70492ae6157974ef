"""Exit codes of the command line."""

from __future__ import annotations

DONE = 0

FAILED = 1

BAD_INPUT = 2

# For Ctrl-C. As in shells: 128 plus the number of the signal, so 143 for SIGTERM, 129 for SIGHUP.
INTERRUPTED = 130
