from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sotl.losses.names import metric_names, parse_monitor


@given(
    prefix=st.sampled_from(["sotl", "train/sotl", "my_loss"]),
    window=st.integers(1, 500),
    decay=st.floats(0.001, 1.0),
    block=st.none() | st.integers(1, 10_000),
)
def test_every_name_of_a_monitor_is_understood(
    prefix: str, window: int, decay: float, block: int | None
) -> None:
    for name, kind in metric_names(prefix, (window,), decay, block).items():
        parsed = parse_monitor(name, prefix=prefix)
        assert parsed is not None
        assert (parsed.prefix, parsed.block) == (prefix, block)
        assert parsed.window == (kind if isinstance(kind, int) else None)
        assert parsed.decay == (kind if isinstance(kind, float) else None)


@pytest.mark.parametrize("name", ["val_loss", "sotl_e0", "sotl_ema2", "sotl_ema0.5.5", "acc", ""])
def test_other_names_are_no_estimates(name: str) -> None:
    assert parse_monitor(name) is None
