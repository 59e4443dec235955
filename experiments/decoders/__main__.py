"""`python -m experiments.decoders`, from the root of the repository."""

import sys

from experiments.decoders.command import main

if __name__ == "__main__":
    sys.exit(main())
