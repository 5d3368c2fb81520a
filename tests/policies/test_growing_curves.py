import math

import numpy as np

from lightning_sotl.policies.growing_curves import GrowingCurves


def test_runs_and_epochs_are_put_in_any_order_and_number():
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(100, 40))
    curves = GrowingCurves(max_epochs=40)
    for epoch in range(40):
        for run in generator.permutation(100):
            curves.put(int(run), epoch, expected[run, epoch])
    order = [curves.row(run) for run in range(100)]
    np.testing.assert_array_equal(curves.values[order], expected)


def test_non_finite_values_are_the_worst_and_values_beyond_the_budget_are_ignored():
    curves = GrowingCurves(max_epochs=2)
    for epoch, value in enumerate([math.nan, -math.inf, 1.0]):
        curves.put("run", epoch, value)
    curves.put("run", -1, 1.0)
    assert curves.values.tolist() == [[math.inf, math.inf]]


def test_a_rewound_run_loses_its_later_values():
    curves = GrowingCurves(max_epochs=5)
    for epoch, value in [(0, 4.0), (2, 2.0), (1, 3.0)]:
        curves.put("run", epoch, value)
    assert curves.values.tolist() == [[4.0, 3.0, 2.0]]
    curves.drop_after("run", 1)
    curves.drop_after("other", 0)
    np.testing.assert_array_equal(curves.values, [[4.0, 3.0, math.nan]])
    assert curves.row("other") is None
