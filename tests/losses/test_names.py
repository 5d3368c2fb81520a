from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_sotl.losses.names import logged_estimates, parse_monitor


@given(
    prefix=st.sampled_from(["sotl", "train/sotl", "my_loss"]),
    window=st.integers(1, 500),
    decay=st.floats(0.001, 1.0),
    block=st.none() | st.integers(1, 10_000),
)
def test_every_logged_name_is_parsed(
    prefix: str, window: int, decay: float, block: int | None
) -> None:
    parameters = {"sotl": [None], "sotl-e": [window], "sotl-ema": [decay]}
    names = [f"{prefix}_b{block}" if block else prefix]
    names += [f"{names[0]}_e{window}", f"{names[0]}_ema{decay!r}"]
    estimates = logged_estimates(parameters, prefix=prefix, block=block)
    assert list(estimates) == names
    for name, (family, (parameter,)) in zip(names, parameters.items(), strict=True):
        parsed = parse_monitor(name, prefix=prefix)
        assert parsed is not None
        assert (parsed.prefix, parsed.block) == (prefix, block)
        assert (parsed.family.name, parsed.parameter) == (family, parameter)
        assert parsed == estimates[name]


@pytest.mark.parametrize("name", ["val_loss", "sotl_e0", "sotl_ema2", "sotl_ema0.5.5", "acc", ""])
def test_other_names_are_not_estimates(name: str) -> None:
    assert parse_monitor(name) is None
