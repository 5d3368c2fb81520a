from __future__ import annotations

import re

import numpy as np
import pytest

from lightning_sotl.ranking.comparability import (
    comparability_notes,
    differing_fields,
    groups_of,
    near_zero_notes,
)


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
def test_settings_that_change_the_loss_are_named(changes: dict[str, object]) -> None:
    differing = differing_fields([facts(), facts(**changes)])
    name = next(iter(changes))
    if name == "hparams":
        name = f"hparams.{next(iter(changes['hparams']))}"
    assert list(differing) == [name]


@pytest.mark.parametrize(
    "changes",
    [{"run_id": "b"}, {"time": 2.0}, {"hparams": {"width": 64, "lr": 0.1}}],
)
def test_differences_between_architectures_cause_no_warning(changes: dict[str, object]) -> None:
    assert comparability_notes([facts(), facts(**changes)]) == []


def test_different_budgets_cause_a_warning_about_schedules() -> None:
    assert comparability_notes([facts(max_epochs=epochs) for epochs in (30, 9, 30)]) == [
        "The runs have different `max_epochs` (30 in 2 runs, 9 in 1 run). If a learning-rate "
        "schedule depends on it, the runs are not at the same point of their schedules at T."
    ]


def test_runs_without_records_cause_no_warning() -> None:
    assert comparability_notes([{}, {}]) == []


def test_the_warning_counts_the_runs_with_each_value() -> None:
    notes = comparability_notes([facts(), facts(), facts(batch_size=64), {}])
    assert notes == [
        "The runs differ in settings that change the training loss, so their order may not show "
        "which is better: batch_size (32 in 2 runs, 64 in 1 run). `lightning-sotl rank "
        "--group-by FIELD` compares like with like.",
        "Runs without a record (1 of 4) may differ from the others in batch size, loss and similar "
        "settings.",
    ]


@pytest.mark.parametrize(
    "hparams",
    [
        {"model": {"dropout": 0.1}},
        {"model": {"encoder": {"layers": [{"width": 8}, {"attn_drop_rate": 0.1}]}}},
        {"model.dropout": 0.1},
        {"model/dropout": 0.1},
        {"augmentation": {"strength": 2}},
        {"loss": "mae"},
        {"loss_fn": "MSELoss()"},
        {"aux_loss": True},
        {"lossWeight": 2.0},
        {"loss-weight": 2.0},
        {"criterion": {"class_path": "torch.nn.L1Loss"}},
        {"head": {"class_path": "torch.nn.L1Loss", "init_args": {"reduction": "sum"}}},
        {"likelihood": "gaussian"},
        {"objective": "quantile"},
        {"distribution": "StudentT"},
        {"scaler": "robust"},
        {"scaler_type": "robust"},
        {"target_normalizer": "auto"},
        {"kl_weight": 0.5},
        {"quantiles": [0.1, 0.9]},
        {"mask_ratio": 0.75},
        {"noise": 0.3},
        {"noise_std": 0.3},
        {"lambda_l1": 10.0},
        {"cycle_lambda": 10.0},
        {"data": {"noise_level": 0.3}},
        {"dataset": "cifar100"},
    ],
)
@pytest.mark.parametrize("part", ["hparams", "params"])
def test_parameters_that_change_the_loss_are_found_at_any_depth(
    part: str, hparams: dict[str, object]
) -> None:
    notes = comparability_notes([facts(), facts(**{part: hparams})])
    name = re.match(rf"The runs differ in .*: ({part}\.[^ ]+) \(null in 1 run, ", notes[0])
    assert name is not None
    groups = groups_of([facts(), facts(**{part: hparams})], [name[1]])
    assert list(groups.values()) == [[0], [1]]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer": {"class_path": "torch.optim.SGD"}}, {"optimizer": {"class_path": "Adam"}}),
        ({"model": {"class_path": "nets.DropoutNet"}}, {"model": {"class_path": "nets.Net"}}),
        ({"dropout": 0}, {"dropout": 0.0}),
        ({"class_weights": [1, 2]}, {"class_weights": [1.0, 2.0]}),
        ({}, {"dropout": 0.0, "label_smoothing": None, "augmentations": [], "mixup": False}),
        ({"augment": "none"}, {"augment": None}),
        ({"loss": "<function mse at 0x7f00aa>"}, {"loss": "<function mse at 0x7f11bb>"}),
        ({"batch_size": 32}, {"batch_size": 64}),  # the record has the actual one
        ({"monitor": "val_loss"}, {"monitor": "train_loss"}),
        ({"norm": "layer", "normalize_before": True}, {"norm": "batch"}),
        ({"l1": 64, "grad_scaler": 2.0}, {"l1": 128}),  # layers; mixed precision
        ({"noise_dim": 16, "lr_lambda": 0.9}, {"noise_dim": 32, "lr_lambda": 0.95}),
        ({"init_distribution": "normal"}, {"init_distribution": "uniform"}),
    ],
)
def test_a_difference_that_changes_no_loss_causes_no_warning(
    one: dict[str, object], other: dict[str, object]
) -> None:
    assert comparability_notes([facts(hparams=one), facts(hparams=other)]) == []


def test_the_batch_size_comes_from_parameters_if_the_record_lacks_it() -> None:
    runs = [facts(batch_size=None, hparams={"data": {"batch_size": n}}) for n in (16, 32)]
    assert list(differing_fields(runs)) == ["hparams.data.batch_size"]


def test_each_difference_is_named_once() -> None:
    # 100 examples. The user gave the monitor the hyper-parameter that the module saved.
    runs = [
        facts(batch_size=size, batches_per_unit=n, params={"loss": x}, hparams={"loss": x})
        for size, n, x in [(32, 4, "mse"), (32, 4, "mae"), (64, 2, "mae")]
    ]
    assert list(differing_fields(runs)) == ["batch_size", "params.loss"]
    # The third run has 1,000 examples.
    runs[2]["batches_per_unit"] = 16
    assert list(differing_fields(runs)) == ["batch_size", "batches_per_unit", "params.loss"]


def test_arguments_of_different_classes_are_not_named() -> None:
    runs = [
        facts(hparams={"loss": {"class_path": name, "init_args": {"weight": weight}}})
        for name, weight in [("A", 1.0), ("A", 2.0), ("B", 3.0)]
    ]
    assert list(differing_fields(runs)) == ["hparams.loss.class_path"]
    assert list(differing_fields(runs[:2])) == ["hparams.loss.init_args.weight"]


def test_a_search_over_a_range_is_described_by_its_bounds() -> None:
    runs = [facts(hparams={"dropout": step / 32}) for step in (4, 1, 9, 2, 3)]
    assert comparability_notes(runs) == [
        "The runs differ in settings that change the training loss, so their order may not show "
        "which is better: hparams.dropout (5 values from 0.03125 to 0.28125)."
    ]
    assert "(5 values from 0.03125 to 0.28125)" in comparability_notes([*runs, facts()])[0]
    losses = [facts(hparams={"loss": name}) for name in ("mse", "mae", "huber")]
    assert comparability_notes(losses) == [
        "The runs differ in settings that change the training loss, so their order may not show "
        'which is better: hparams.loss ("mse" in 1 run, "mae" in 1 run, "huber" in 1 run).'
    ]
    # Groups of several runs can be ranked.
    assert comparability_notes(2 * runs)[0].endswith(
        "(0.125 in 2 runs, 0.03125 in 2 runs, 0.28125 in 2 runs, 0.0625 in 2 runs, ...). "
        "`lightning-sotl rank --group-by FIELD` compares like with like."
    )


def test_budgets_in_steps_are_compared_like_budgets_in_epochs() -> None:
    runs = [facts(max_epochs=-1, max_steps=steps) for steps in (100, 100, 200)]
    assert comparability_notes(runs) == [
        "The runs have different `max_steps` (100 in 2 runs, 200 in 1 run). If a learning-rate "
        "schedule depends on it, the runs are not at the same point of their schedules at T."
    ]
    runs[2] = facts(max_epochs=9, max_steps=-1)
    assert comparability_notes(runs) == [
        "The runs have different `max_epochs` (-1 in 2 runs, 9 in 1 run) and `max_steps` (100 in "
        "2 runs, -1 in 1 run). If a learning-rate schedule depends on them, the runs are not "
        "at the same point of their schedules at T."
    ]
    # No limit is -1, or null in other programs.
    assert comparability_notes([facts(max_steps=-1), facts(max_steps=None), facts()]) == []


def test_runs_are_grouped_by_fields_at_any_depth() -> None:
    runs = [
        facts(hparams={"model": {"dropout": 0.5, "sizes": [8, 4]}}),
        facts(hparams={"model": {"dropout": 0.5}}, params={"loss": "mse"}),
        facts(hparams={"model.dropout": 0.5}),  # a key with a dot in it
        facts(hparams={"model/dropout": 1, "layers": [{"dropout": 2}]}),
    ]
    assert list(groups_of(runs, ["hparams.model.dropout"]).values()) == [[0, 1, 2], [3]]
    assert groups_of(runs, ["params.loss"]) == {("null",): [0, 2, 3], ('"mse"',): [1]}
    assert list(groups_of(runs, ["hparams.model/dropout"]).values()) == [[0, 1, 2], [3]]
    assert list(groups_of(runs, ["hparams.layers.0.dropout"]).values()) == [[0, 1, 2], [3]]
    assert groups_of(runs, ["hparams.model"])['{"dropout": 0.5, "sizes": [8, 4]}',] == [0]


def test_equal_numbers_form_one_group() -> None:
    runs = [facts(hparams={"dropout": value}) for value in (0.0, 0, 1, True)]
    assert groups_of(runs, ["hparams.dropout"]) == {("0.0",): [0, 1], ("1",): [2], ("true",): [3]}


def test_unusual_headers_are_compared() -> None:
    runs = [facts(params=[1], hparams=None), facts(params={"": {"loss": {}}}, world_size="two")]
    assert list(differing_fields(runs)) == ["world_size"]


def test_losses_near_zero_cause_a_warning_unless_some_are_negative() -> None:
    losses = np.array([[0.5, 0.05], [0.4, 0.01], [0.9, 0.5]])
    assert near_zero_notes(losses, at=2) == [
        "2 of 3 runs have L(e) < 0.1 after 2 epochs. So close to zero, the order of training "
        "losses means little. A smaller T may rank these runs better."
    ]
    assert near_zero_notes(losses, at=1) == []
    densities = np.array([[-8.1, -8.7], [-8.0, -8.4]])
    assert near_zero_notes(densities, at=2) == []
    losses[2, 0] = -0.1  # in any run and epoch
    assert near_zero_notes(losses, at=2) == []


def test_the_runs_of_a_group_share_their_values() -> None:
    runs = [facts(), facts(batch_size=64), facts(hparams={"dropout": 0.5}), {}]
    assert groups_of(runs, ["batch_size", "hparams.dropout"]) == {
        ("32", "null"): [0],
        ("64", "null"): [1],
        ("32", "0.5"): [2],
        ("unknown", "unknown"): [3],
    }
    assert groups_of(runs, []) == {(): [0, 1, 2, 3]}


def test_an_unknown_field_is_refused_with_a_list_of_the_existing_ones() -> None:
    message = "No run has the field 'lr'; available: 'batch_size', 'hparams.dropout'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        groups_of([{"batch_size": 1, "hparams": {"dropout": 0.5}}], ["lr"])
