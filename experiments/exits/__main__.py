"""`python -m experiments.exits`, from the root of the repository."""

import sys

from experiments.exits.command import main

if __name__ == "__main__":
    sys.exit(main())
