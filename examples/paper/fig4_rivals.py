"""Fig. 4: SoTL-E against validation accuracy, learning-curve extrapolation and other rivals.

Claim (section 5.3): up to half of training, SoTL-E (E = 1) ranks networks better than SoTL, SoVL,
the validation accuracy at T (Val Acc) and LcSVR, which learns from 200 fully trained networks. Val
Acc catches up late, from T = 150 of 200 epochs on. Section 4 also names the number of epochs to
training loss 0.1. The script adds losses 0.5 and 1, because few networks of a hard task reach 0.1.

LcSVR learns from 200 networks, or from half of a table of fewer than 400, and is evaluated on the
others. A second table compares it there with SoTL-E and Val Acc. As in the paper, LcSVR reads the
features of the architecture if the table has them; the script also prints its result without them.

If networks were trained several times, a third table uses the first training of each network to
predict the mean test accuracy of its OTHER trainings. Late validation accuracies and the final test
accuracy of one training share its random luck; this comparison removes it.

Figure: rank correlation with the final test accuracy over T, with 95% intervals as bands. Gray, as
in the paper: the second half of training, where stopping saves little.
Time: 20 s, most of it for LcSVR. `--searches` is the number of settings that it tries.

    python examples/paper/fig4_rivals.py [--table FILE] [--seed 0] [--searches 50] [--smoke]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
from _figures import (
    Gap,
    Part,
    above,
    assess,
    draw,
    finish,
    gap_between,
    label,
    scores_of,
    sentence,
    show,
    stays_ahead,
)
from _networks import SHARES, Networks, options_of, read_networks
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_sotl import LearningCurves, correlation_curves, rank_correlation_interval
from lightning_sotl.evaluation.estimators import named_estimator
from lightning_sotl.evaluation.evaluate import LCSVR, Correlation, Evaluation
from lightning_sotl.evaluation.lcsvr import LcSVR

LEARNED = 200  # networks that LcSVR learns from, as in the paper
TO_LOSS = ("epochs-to-loss0.1", "epochs-to-loss0.5", "epochs-to-loss1")
RIVALS = ("sotl-e1", "sotl", "sovl", "val-metric", *TO_LOSS)
Predictions = dict[int, NDArray[np.float64]]  # T -> prediction for each network


def extrapolate(
    networks: Networks, at: Sequence[int], searches: int
) -> tuple[Networks, Predictions]:
    """Fit LcSVR at each T; return the networks it has not learned from, and its predictions."""
    curves = networks.curves
    learned = min(LEARNED, curves.runs // 2)
    predictions, unseen = {}, networks
    for epoch in tqdm(at, desc="LcSVR", unit="T", leave=False):
        model = LcSVR(training_runs=learned, searches=searches, seed=networks.seed)
        model.fit(curves, at=epoch)
        rest = np.setdiff1d(np.arange(curves.runs), model.training_rows_)
        unseen = dataclasses.replace(networks, curves=curves.select(rest))
        predictions[epoch] = model.predict(unseen.curves, at=epoch)
    return unseen, predictions


def gap_to_lcsvr(unseen: Networks, name: str, predicted: NDArray[np.float64], at: int) -> Gap:
    """Return the gap between an estimator and LcSVR on the networks it has not learned from."""
    rival = (predicted, unseen.curves.final_mode)
    return gap_between(unseen, scores_of(unseen, name, at), rival)


def with_lcsvr(result: Evaluation, unseen: Networks, predictions: Predictions) -> Evaluation:
    """Return the evaluation with LcSVR's correlations on the unseen networks added."""
    curves, found = unseen.curves, {}
    for at, predicted in predictions.items():
        rho = gap_to_lcsvr(unseen, "sotl-e1", predicted, at).second
        low, high = rank_correlation_interval(
            predicted,
            curves.final_metric,
            mode=curves.final_mode,
            target_mode=curves.final_mode,
            **unseen.bootstrap,
        )
        found[at] = Correlation(rho, float(low), float(high))
    return dataclasses.replace(result, estimators={**result.estimators, LCSVR: found})


def show_unseen(unseen: Networks, predictions: Predictions, bare: Predictions) -> None:
    """Print how SoTL-E, Val Acc and LcSVR without features compare with LcSVR."""
    print(f"\nAgainst LcSVR, on the {unseen.curves.runs} networks that it has not learned from:")
    for name in ("sotl-e1", "val-metric"):
        for at, predicted in predictions.items():
            print(f"{name:16}  T = {at:3}  {gap_to_lcsvr(unseen, name, predicted, at)}")
    mode = unseen.curves.final_mode
    for at, values in bare.items():
        gap = gap_between(unseen, (values, mode), (predictions[at], mode))
        print(f"without features  T = {at:3}  {gap}")


def other_trainings(networks: Networks) -> Networks | None:
    """Return the first trainings, with the mean accuracy of the others as the target.

    Returns None if fewer than 3 networks have several trainings.
    """
    columns, trainings = networks.columns, networks.trainings
    if trainings is None or not {"repeat", "cells"} <= columns.keys():
        return None
    targets: dict[str, list[float]] = {}
    for row in np.flatnonzero(columns["repeat"] > 0):
        targets.setdefault(str(columns["cells"][row]), []).append(trainings.final_metric[row])
    first = np.flatnonzero(columns["repeat"] == 0)
    rows = [row for row in first if str(columns["cells"][row]) in targets]
    if len(rows) < 3:
        return None
    means = [np.mean(targets[str(columns["cells"][row])]) for row in rows]
    curves: LearningCurves = trainings.select(rows)
    return dataclasses.replace(
        networks, curves=dataclasses.replace(curves, final_metric=np.array(means))
    )


def show_others(networks: Networks) -> None:
    """Print how well one training predicts the other trainings of its network."""
    again = other_trainings(networks)
    if again is None or networks.trainings is None:
        return
    place = {name: row for row, name in enumerate(networks.trainings.names)}
    own = networks.trainings.final_metric[[place[name] for name in again.curves.names]]
    mode = again.curves.final_mode
    print(
        f"\nFirst training of {again.curves.runs} networks against the mean final test accuracy of "
        "their other trainings:"
    )
    for at in sorted({networks.epoch(share) for share in SHARES}):
        gaps = above(again, "sotl-e1", "val-metric", at).numbers
        print(f"sotl-e1 against val-metric  T = {at:3}  {gaps}")
    ceiling = gap_between(again, (own, mode), (own, mode)).first
    print(f"final test accuracy of the first training against that of the others: {ceiling:.3f}")


def check(networks: Networks, unseen: Networks, predictions: Predictions) -> list[Part]:
    """Test the parts of the claim for which the table has the curves."""
    early = sorted({networks.epoch(1 / 10), networks.epoch(1 / 4)})
    parts = []
    if networks.have("val-metric"):
        parts = [above(networks, "sotl-e1", "val-metric", at) for at in early]
        rho = correlation_curves(networks.curves, ["sotl-e1", "val-metric"])
        since = stays_ahead(rho["val-metric"], rho["sotl-e1"])
        late = above(networks, "sotl-e1", "val-metric", networks.curves.epochs)
        claim = f"{label('val-metric', networks)} level with SoTL-E1 or above it at the end"
        from_then = f"at least SoTL-E1 from T = {since} on" if since else "lower than SoTL-E1"
        parts.append(Part(claim, late.held is not True, f"{late.numbers}, {from_then}"))
    for at in sorted(set(early) & predictions.keys()):
        gap = gap_to_lcsvr(unseen, "sotl-e1", predictions[at], at)
        parts.append(Part(f"SoTL-E1 above LcSVR at T = {at}", gap.leads, gap))
    rivals = networks.have("sotl", "sovl")
    return parts + [above(networks, "sotl-e1", name, early[-1]) for name in rivals]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the correlations, save the picture and print whether the claim held."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--searches", type=int, default=50, help="settings that LcSVR tries")
    options = options_of(__doc__, argv, parser)
    networks = read_networks(options)
    result = assess(networks, RIVALS)
    unseen, predictions, bare = networks, {}, {}
    if networks.have("val-metric"):
        shares = (1 / 10, 1 / 4) if options.smoke else SHARES
        at = sorted({networks.epoch(share) for share in shares})
        searches = 3 if options.smoke else options.searches
        unseen, predictions = extrapolate(networks, at, searches)
        result = with_lcsvr(result, unseen, predictions)
        if networks.curves.features is not None:
            alone = dataclasses.replace(networks.curves, features=None)
            bare = extrapolate(dataclasses.replace(networks, curves=alone), at, searches)[1]
    show(networks, result)
    for name in TO_LOSS:
        reached = np.isfinite(named_estimator(name).scores(networks.curves)).sum(axis=0)
        counts = (f"{reached[at - 1]} at T = {at}" for at in result.estimators["sotl-e1"])
        print(f"{name}: reached by {', '.join(counts)}")
    if predictions:
        show_unseen(unseen, predictions, bare)
        show_others(networks)
    figure = draw(networks, result, "Fig. 4")
    summary = sentence(networks, result, check(networks, unseen, predictions))
    finish(options, figure, "fig4_rivals", summary)


if __name__ == "__main__":
    main()
