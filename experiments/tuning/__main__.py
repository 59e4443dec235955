"""`python -m experiments.tuning`."""

import sys

from experiments.tuning.command import main

if __name__ == "__main__":
    sys.exit(main())
