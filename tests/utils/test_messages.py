"""Warnings of this package as a user sees them: with the user's own line."""

import pytest
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_sotl.sweep.promotion import Candidate, best_of


def test_a_warning_names_the_line_that_has_called_this_package():
    with pytest.warns(UserWarning, match="^Expected 2 winners but there can be only 1: ") as caught:
        best_of([Candidate("a", 1.0, {}, "a.ckpt")], 2)
    assert caught[0].filename == __file__


def test_a_warning_needs_no_lightning_that_has_set_the_rank(monkeypatch):
    monkeypatch.delattr(rank_zero_only, "rank", raising=False)
    with pytest.warns(UserWarning, match="^Expected 2 winners but there can be only 1: "):
        best_of([Candidate("a", 1.0, {}, "a.ckpt")], 2)


def test_ranks_but_the_first_are_silent(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    assert len(best_of([Candidate("a", 1.0, {}, "a.ckpt")], 2)) == 1
