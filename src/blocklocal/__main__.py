"""`python -m blocklocal` is the command `blocklocal`."""

import sys

from blocklocal.cli import main

sys.exit(main())
