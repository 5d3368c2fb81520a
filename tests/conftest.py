"""Settings of all tests, and of the processes that they start."""

import os

# Before torch is imported. The tests' networks are so small that more threads only wait for each
# other, for minutes where other programs want the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
