"""``python -m scvibridge``: the command line."""

import sys

from scvibridge.cli import main

sys.exit(main())
