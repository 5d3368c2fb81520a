from __future__ import annotations

import re

import pytest

from lightning_sotl.ranking.comparability import comparability_notes, differing_fields, groups_of


def facts(**changes: object) -> dict[str, object]:
    return {
        "run_id": "a",
        "loss_key": "loss",
        "batch_size": 32,
        "accumulate_grad_batches": 1,
        "world_size": 1,
        "batches_per_unit": 10,
        "hparams": {},
        **changes,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_key": "nll"},
        {"batch_size": 64},
        {"accumulate_grad_batches": 2},
        {"world_size": 2},
        {"batches_per_unit": 20},
        {"unit": 100},
        {"hparams": {"label_smoothing": 0.1}},
        {"hparams": {"class_weights": [1, 2]}},
        {"hparams": {"dropout": 0.5}},
        {"hparams": {"attn_drop_rate": 0.5}},
        {"hparams": {"weight_decay": 0.5}},
        {"hparams": {"augmentation": "strong"}},
        {"hparams": {"mixup_alpha": 0.2}},
    ],
)
def test_what_changes_the_loss_is_named(changes: dict[str, object]) -> None:
    differing = differing_fields([facts(), facts(**changes)])
    name = next(iter(changes))
    if name == "hparams":
        name = f"hparams.{next(iter(changes['hparams']))}"
    assert list(differing) == [name]


@pytest.mark.parametrize(
    "changes",
    [{"run_id": "b"}, {"time": 2.0}, {"hparams": {"width": 64, "lr": 0.1}}],
)
def test_what_makes_architectures_differ_is_no_warning(changes: dict[str, object]) -> None:
    assert comparability_notes([facts(), facts(**changes)]) == []


def test_budgets_that_differ_are_told_since_schedules_follow_them() -> None:
    assert comparability_notes([facts(max_epochs=epochs) for epochs in (30, 9, 30)]) == [
        "The runs have different `max_epochs` (30: 2, 9: 1): where a learning-rate schedule "
        "follows it, they are not on the same schedule at T."
    ]


def test_where_no_run_has_a_record_there_is_nothing_to_say() -> None:
    assert comparability_notes([{}, {}]) == []


def test_warning_counts_each_value() -> None:
    notes = comparability_notes([facts(), facts(), facts(batch_size=64), {}])
    assert notes == [
        "The runs differ in what their training losses depend on, so their order may not say which "
        "is better: batch_size (32: 2, 64: 1). Group by a field to rank only like with like.",
        "1 run of 4 without a record: whether batch size, loss and the like make them comparable "
        "cannot be told.",
    ]


def test_groups_share_their_values() -> None:
    runs = [facts(), facts(batch_size=64), facts(hparams={"dropout": 0.5}), {}]
    assert groups_of(runs, ["batch_size", "hparams.dropout"]) == {
        ("32", "null"): [0],
        ("64", "null"): [1],
        ("32", "0.5"): [2],
        ("unknown", "unknown"): [3],
    }
    assert groups_of(runs, []) == {(): [0, 1, 2, 3]}


def test_unknown_field_lists_what_there_is() -> None:
    message = "No run has the field 'lr'; available: 'batch_size', 'hparams.dropout'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        groups_of([{"batch_size": 1, "hparams": {"dropout": 0.5}}], ["lr"])
