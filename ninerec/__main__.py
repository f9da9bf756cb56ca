"""`python -m ninerec`, the form torchrun needs: `torchrun -m ninerec train ...`."""

from __future__ import annotations

import sys

from ninerec.main import main

# The guard matters: worker processes that are spawned import this file again.
if __name__ == "__main__":
    sys.exit(main())
