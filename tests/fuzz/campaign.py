"""A campaign of damaged and hostile files against one reader.

    python -m tests.fuzz.campaign READER [--inputs 100000] [--engine mutate] [--seed 0]
        [--keep FOLDER]

prints how many inputs were given, read and refused. It also prints each place that crashed, with
the smallest input that shows it. A crash is anything that a reader does not document: another
exception than a ValueError that names the file, an impossible result, more than `MOST_SECONDS` for
one input, or more than `MOST_BYTES` of memory.

Engines: "mutate" damages valid files by structure (`mutations.py`), and `--seed` makes it
repeatable. With "atheris" (`pip install atheris`), the coverage of libFuzzer decides which damaged
files to change further. Files are kept in memory if the machine has /dev/shm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

MOST_SECONDS = 10
MOST_BYTES = 4 * 2**30


class Campaign:
    """Gives inputs to one reader, counts what it does, and keeps the crashes."""

    def __init__(self, name: str, folder: Path) -> None:
        from tests.fuzz.readers import READERS

        self.name, self.reader = name, READERS[name]
        self.path = folder / self.reader.file
        self.counts: Counter[str] = Counter()
        self.slowest = 0.0
        self.crashes: dict[str, tuple[bytes, str]] = {}
        self.began = time.monotonic()

    def take(self, data: bytes) -> None:
        """Give the reader one input."""
        began = time.monotonic()
        found = self.crash(data)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.counts["inputs"] += 1
        if found is None:
            return
        where, message = found
        self.counts["crashes"] += 1
        known = self.crashes.get(where)
        if known is None or len(data) < len(known[0]):
            self.crashes[where] = (data, message)

    def crash(self, data: bytes) -> tuple[str, str] | None:
        """Return where and how the reader crashed on an input, or None."""
        _watch(MOST_SECONDS)
        try:
            accepted = self.reader.check(self.path, data)
            self.counts["read" if accepted else "refused"] += 1
        except (Exception, MemoryError) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            return f"{type(error).__name__} {place}", str(error)[:300]
        finally:
            _watch(0)
        return None

    def smallest(self, where: str) -> bytes:
        """Return the smallest input found that still crashes there."""
        data = self.crashes[where][0]
        size = len(data) // 2
        while size:
            at = 0
            while at < len(data):
                shorter = data[:at] + data[at + size :]
                found = self.crash(shorter)
                if found is not None and found[0] == where:
                    data = shorter
                else:
                    at += size
            size //= 2
        return data

    def report(self, keep: Path | None) -> dict[str, Any]:
        """Return the counts and the smallest input of each crash; write these inputs to `keep`."""
        seconds = round(time.monotonic() - self.began, 1)
        document: dict[str, Any] = {"reader": self.name, **self.counts, "seconds": seconds}
        document["slowest_input_seconds"] = round(self.slowest, 3)
        document["peak_MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        smallest = {where: self.smallest(where) for where in self.crashes}
        document["found"] = {
            where: {"message": self.crashes[where][1], "input": repr(data)[:2000]}
            for where, data in smallest.items()
        }
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            for data in smallest.values():
                digest = hashlib.sha256(data).hexdigest()[:8]
                (keep / f"{self.name}-{digest}.bin").write_bytes(data)
        return document


def mutate(campaign: Campaign, inputs: int, seed: int) -> None:
    """Give a reader `inputs` files, damaged by structure."""
    rng = random.Random(seed)  # noqa: S311  # repeatable, not a secret
    for data in campaign.reader.valid():
        campaign.take(data)
    while campaign.counts["inputs"] < inputs:
        campaign.take(campaign.reader.damaged(rng))


def cover(campaign: Campaign, inputs: int, seed: int, folder: Path, keep: Path | None) -> None:
    """Give a reader `inputs` files chosen by libFuzzer's coverage, then end the process."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    for place, data in enumerate(campaign.reader.valid()):
        (corpus / str(place)).write_bytes(data)

    def take(data: bytes) -> None:
        campaign.take(data)
        if campaign.counts["inputs"] >= inputs:
            print(json.dumps(campaign.report(keep)), flush=True)
            os._exit(0)  # libFuzzer does not return otherwise

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)  # noqa: S311  # repeatable, not a secret
        changed: bytes = data
        for _ in range(rng.choice((1, 2, 3))):
            if rng.random() < 0.2:
                changed = atheris.Mutate(changed, most)
            else:
                changed = rng.choice(campaign.reader.mutations)(rng, changed)
        return changed[:most]

    options = ["-max_len=100000", f"-seed={seed or 1}", "-runs=-1", "-verbosity=0"]
    options += ["-rss_limit_mb=0", "-timeout=0"]  # `take` limits both
    atheris.Setup([sys.argv[0], *options, str(corpus)], take, custom_mutator=mutator)
    atheris.Fuzz()


def main() -> None:
    """Run one campaign and print its report as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("reader")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--engine", choices=["mutate", "atheris"], default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="write the smallest input of each crash there"
    )
    options = parser.parse_args()
    if options.engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=["lightning_sotl"]):
            import tests.fuzz.readers  # noqa: F401  # modules imported here are instrumented
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGALRM, _too_slow)
    warnings.simplefilter("ignore")  # zipfile warns about what the mutations write
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  # a folder below it
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        (Path(folder) / "files").mkdir()
        campaign = Campaign(options.reader, Path(folder) / "files")
        if options.engine == "atheris":
            cover(campaign, options.inputs, options.seed, Path(folder), options.keep)
        else:
            mutate(campaign, options.inputs, options.seed)
            print(json.dumps(campaign.report(options.keep), indent=1))


def _watch(seconds: float) -> None:
    if signal.getsignal(signal.SIGALRM) is _too_slow:  # in a test, the alarm belongs to pytest
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"More than {MOST_SECONDS} s for one input.")


if __name__ == "__main__":
    main()
