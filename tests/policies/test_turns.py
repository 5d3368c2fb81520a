"""The plan of a sweep, from the progress of its runs and without a Trainer."""

import math

from lightning_sotl import AdaptivePolicy
from lightning_sotl.policies.rungs import rungs
from lightning_sotl.policies.turns import Progress, steps

POLICY = AdaptivePolicy(max_epochs=12, first=3)
RUNGS = [3, 6, 12]


def run(epochs, loss=1.0, **options):
    """Return a run with losses near `loss`, so that the order of the runs never changes."""
    return Progress(epochs, losses={e: loss + 1 / (e + 1) for e in range(epochs)}, **options)


def plan(runs, **options):
    return steps(runs, policy=POLICY, rungs=RUNGS, **options)


def test_rungs_grow_by_a_factor_and_at_least_by_one():
    assert rungs(3, 30, growth=1.5) == [3, 4, 6, 9, 14, 21, 30]
    assert rungs(2, 9, growth=1.2) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert rungs(3, 50, growth=3.0) == [3, 9, 27, 50]
    assert rungs(5, 3, growth=1.5) == [3]


def test_all_runs_reach_a_rung_before_any_continues():
    (first,) = plan([run(3), run(0), run(3)])
    assert (first.stop_epoch, first.admitted, first.pending) == (3, [0, 1, 2], [1])


def test_the_best_continue_and_a_run_past_the_rung_stays_admitted():
    # If the order never changes, half of the runs continue at each doubling.
    losses = [5.0, 1.0, 3.0, 2.0, 8.0, 7.0, 6.0, 4.0]
    first, second = plan([run(3, loss) for loss in losses])
    assert first.pending == []
    assert second.stop_epoch == 6
    assert second.pending == second.admitted == [1, 2, 3, 7]  # the best 12 / 3
    # The worst run is past the rung already, because it was once the only run.
    beyond = plan([run(3, loss) for loss in losses[:4]] + [run(6, 8.0)])
    assert 4 in beyond[1].admitted
    assert 4 not in beyond[1].pending


def test_decisions_do_not_change_while_others_train_to_the_rung():
    losses = [5.0, 1.0, 3.0, 2.0, 8.0, 7.0, 6.0, 4.0]
    before = plan([run(3, loss) for loss in losses])[1]
    for ahead in before.admitted:
        now = plan([run(6 if row == ahead else 3, loss) for row, loss in enumerate(losses)])[1]
        assert now.admitted == before.admitted
        assert now.pending == [row for row in before.pending if row != ahead]


def test_a_run_that_ended_early_is_complete():
    first, second = plan([run(2, ended=True), run(3), run(3)])
    assert first.pending == []
    assert 0 not in second.admitted


def test_a_run_that_is_set_aside_does_not_delay_the_rung():
    first, second = plan([run(0, set_aside=True), run(3), run(3)])
    assert (first.admitted, first.pending) == ([0, 1, 2], [])
    assert second.admitted == [1, 2]


def test_a_diverged_run_does_not_continue():
    diverged = Progress(3, losses={0: 1.0, 1: math.inf, 2: math.inf})
    _, second = plan([run(3, 1.0), diverged, *(run(3, 2.0 + k) for k in range(9))])
    assert 1 not in second.admitted


def test_a_budget_starts_the_first_runs_and_reserves_enough_to_finish_one():
    # n runs need 3 epochs each, and one of them 12 - 3 = 9 more: n = 3 with 20 epochs.
    (first,) = plan([run(0)] * 6, max_total_epochs=20)
    assert (first.admitted, first.not_affordable) == ([0, 1, 2], 3)
    # 9 epochs are spent. One run needs 3 more to reach 6, and 6 more to reach 12. With 20 epochs,
    # only one run continues.
    _, second = plan([run(3, 1.0), run(3, 2.0), run(3, 3.0), *[run(0)] * 3], max_total_epochs=20)
    assert second.admitted == [0]
    _, second = plan([run(3, 1.0), run(3, 2.0), run(3, 3.0)], max_total_epochs=21)
    assert second.admitted == [0, 1]
    assert second.not_affordable == 1


def test_a_run_that_ended_early_does_not_use_up_the_reserve():
    # 8 + 3 + 3 epochs are spent. One run needs 3 more to reach 6, and 6 more to reach 12. With 23
    # epochs, one run continues.
    runs = [run(8, ended=True), run(3, 1.0), run(3, 2.0)]
    assert plan(runs, max_total_epochs=23)[1].pending == [1]
    assert plan(runs, max_total_epochs=22)[1].pending == []


def test_validations_and_losses_decide_together():
    # Losses and validations disagree, so more runs continue than by losses alone.
    def both(loss, accuracy):
        return Progress(
            3,
            losses={e: loss + 1 / (e + 1) for e in range(3)},
            validations=dict.fromkeys(range(3), accuracy),
        )

    runs = [both(float(k), k / 20) for k in range(16)]
    by_losses = plan(runs)[1].admitted
    by_both = plan(runs, lower_is_better=False)[1].admitted
    assert 0 in by_losses
    assert 15 not in by_losses
    assert 15 in by_both
