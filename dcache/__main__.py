"""`python -m dcache`: the command `dcache`."""

import sys

from dcache.cli import main

sys.exit(main())
