"""`python -m lightning_sotl`."""

from __future__ import annotations

import sys

from lightning_sotl.cli import main

if __name__ == "__main__":
    sys.exit(main())
