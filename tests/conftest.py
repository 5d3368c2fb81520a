"""Settings of all tests, and of the processes that they start."""

import os
import sys

from tests.support.paths import EXAMPLES, PAPER

# Before torch is imported. The tests' networks are so small that more threads only wait for each
# other, for minutes where other programs want the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# An example imports the modules beside it, as a script can.
sys.path += [str(EXAMPLES), str(PAPER)]
