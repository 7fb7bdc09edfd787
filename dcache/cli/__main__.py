"""`python -m dcache.cli`."""

import sys

from dcache.cli import main

sys.exit(main())
