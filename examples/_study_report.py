"""The report of the Optuna sweep: a table, a figure and one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from lightning_sotl import plotting

COLORS = ("#0072b2", "#d55e00", "#009e73")  # distinct for color-blind readers


def in_order(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials by value, lowest first, then the pruned ones, longest first."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    return sorted(complete, key=lambda trial: trial.value) + sorted(
        pruned, key=lambda trial: (-trial.last_step, trial.intermediate_values[trial.last_step])
    )


def count_epochs(study: optuna.Study) -> int:
    """Return the number of epochs that the trials trained; they report each one."""
    return sum(len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False))


def describe(params: dict[str, Any]) -> str:
    """Return a trial's network in one word."""
    return "-".join([params["kind"], *[str(params["width"])] * params["depth"]])


def print_trials(
    study: optuna.Study, accuracies: dict[str, float], *, pick: str, budget: int
) -> None:
    """Print the trials in order, with the validation accuracy of those trained to the end."""
    print(
        f"\n{'rank':>4}  {'trial':>5}  {'network':14} {'rate':>8} {'epochs':>6} {'sotl_e1':>9}"
        f" {f'val {budget} %':>9}"
    )
    for rank, trial in enumerate(in_order(study), 1):
        accuracy = accuracies.get(str(trial.number))
        last = trial.intermediate_values[trial.last_step]
        epochs = trial.last_step + 1 + (0 if accuracy is None else budget - trial.last_step - 1)
        notes = " pruned" if trial.state == TrialState.PRUNED else ""
        notes += "  <- pick" if str(trial.number) == pick else ""
        print(
            f"{rank:4}  {trial.number:5}  {describe(trial.params):14}"
            f" {trial.params['learning_rate']:8.5f} {epochs:6} {last:9.4f}"
            f" {'-' if accuracy is None else f'{100 * accuracy:.2f}':>9}{notes}"
        )


def save_picture(path: Path, study: optuna.Study, promoted: list[str]) -> None:
    """Draw `sotl_e1` of each trial over completed epochs, with the promoted ones in color."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for trial in reversed(in_order(study)):
        number = str(trial.number)
        style: dict[str, Any] = {"color": "0.6", "linewidth": 1.0}
        if number in promoted:
            place = promoted.index(number)
            label = f"{place + 1}. trial {number}: {describe(trial.params)}"
            style = {"color": COLORS[place], "linewidth": 2.0, "label": label}
        elif trial.state == TrialState.PRUNED:
            style |= {"linestyle": ":"}
        values = {e: v for e, v in trial.intermediate_values.items() if math.isfinite(v)}
        axes.plot([e + 1 for e in values], list(values.values()), marker=".", **style)
    axes.set(yscale="log", xlabel="completed epochs", ylabel="sotl_e1 (nats)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="promoted; dotted: pruned")
    plotting.save(figure, path)


def summarize(
    study: optuna.Study,
    stop_epoch: int,
    budget: int,
    promoted: int,
    epochs: int,
    test_accuracy: float,
) -> str:
    """Return a sentence on the cost and the pick of the search."""
    trials = study.get_trials(deepcopy=False)
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    full = len(trials) * budget
    return (
        f"Stopping {len(trials)} trials by epoch {stop_epoch} of {budget} ({pruned} were pruned) "
        f"and training the best {promoted} to the end took {epochs} of the {full} epochs "
        f"of full training ({epochs / full:.0%}) and picked a network with a test accuracy of "
        f"{test_accuracy:.2%}."
    )
