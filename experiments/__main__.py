"""`python -m experiments EXPERIMENT …`, from the root of the repository; `blocklocal reproduce` does the same."""

import sys

from blocklocal.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
