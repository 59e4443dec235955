"""`python -m experiments.few_labels`, from the root of the repository."""

import sys

from experiments.few_labels.command import main

if __name__ == "__main__":
    sys.exit(main())
