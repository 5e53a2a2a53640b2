"""`python -m cptlaw` is `cptlaw`."""

import sys

from cptlaw.cli import main

if __name__ == "__main__":
    sys.exit(main())
