"""`python -m experiments.networks`, from the root of the repository."""

import sys

from experiments.networks.command import main

if __name__ == "__main__":
    sys.exit(main())
