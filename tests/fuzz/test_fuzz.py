"""Damaged files of every format: those that once crashed a reader, and some new ones.

`python -m tests.fuzz.campaign READER` runs a whole campaign. The files in `corpus` are the smallest
that it found for each crash.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.campaign import Campaign, mutate
from tests.fuzz.readers import READERS

CORPUS = sorted((Path(__file__).parents[1] / "corpus").glob("*/*.bin"))


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_file_that_once_crashed_a_reader_is_read_or_refused(tmp_path: Path, file: Path) -> None:
    reader = READERS[file.parent.name]
    reader.check(tmp_path / reader.file, file.read_bytes())


@pytest.mark.parametrize("name", READERS)
def test_valid_files_are_read(tmp_path: Path, name: str) -> None:
    reader = READERS[name]
    for data in reader.valid():
        assert reader.check(tmp_path / reader.file, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")  # from zipfile, which still writes it
@pytest.mark.parametrize("name", READERS)
def test_a_short_campaign_finds_no_crash(tmp_path: Path, name: str) -> None:
    campaign = Campaign(name, tmp_path)
    mutate(campaign, 30 if name == "command-line" else 100, seed=20)
    assert campaign.crashes == {}
    assert campaign.counts["inputs"] >= 30


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "command-line" else ())
        for name in READERS
    ],
)
@settings(max_examples=10, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    reader = READERS[name]
    reader.check(tmp_path_factory.getbasetemp() / reader.file, data)


def test_a_crash_is_found_and_its_input_is_minimized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign = Campaign("record", tmp_path)
    monkeypatch.setattr("lightning_sotl.record.reader.MOST_UNITS", "no number")
    for data in campaign.reader.valid():
        campaign.take(data)
    ((where, (_, message)),) = campaign.crashes.items()
    assert where.startswith("TypeError reader.py:")
    assert "'<' not supported" in message
    smallest = campaign.smallest(where)
    assert len(smallest) < 100
    assert b'"e":' in smallest


def test_a_seed_repeats_the_damaged_files() -> None:
    for reader in READERS.values():
        first, again = (reader.damaged(random.Random(3)) for _ in range(2))  # noqa: S311
        assert first == again or reader.file.endswith(("npz", "zip"))  # which contain the time
