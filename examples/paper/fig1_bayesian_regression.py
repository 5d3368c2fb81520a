"""Fig. 1: in Bayesian linear regression, SoTL estimates a bound of the model evidence.

Claim (section 5.1): the sum of training losses under samples of the iterated posterior estimates
the lower bound L of the log evidence. It separates the two models better than the final training
loss does.

Data: y ~ N(0, 1). Point i has the features (y_i + e0_i, 0, ..., e_i, ..., 0), with e_i in its own
column, and all noise is N(0, 1). Model 1 uses all features, model 2 only the first. Prior and
observation noise are N(0, 1). The paper does not give these, so the last table repeats the
comparison with other noise variances.

Each draw is checked. L <= log P(D) must hold at every n, and the evidence, a sum of log predictive
densities, must equal SciPy's joint density at every n of the table. Otherwise the script ends with
an error.

In the tables, "(1)" is one sample instead of the mean of 8. "final loss" is the loss of all n
points under weights drawn from their own posterior, and "final (mean)" the loss under the mean
weights. "test loss" is minus the log predictive density of fresh points; a good choice of model
has a low one.

Figure: left, the measures of both models over n; right, how much worse model 1 is by each measure.
Time: about 8 s on one core, 2 s with `--smoke`.

    python examples/paper/fig1_bayesian_regression.py [--seed 0] [--smoke] [--output DIR]
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _bayesian_regression import Array, Posterior, check, log_density, measure
from matplotlib.figure import Figure
from tqdm import tqdm

from lightning_sotl import plotting

SAMPLES = 8  # weights drawn from each posterior; the first one alone is "(1)"
FRESH = 200  # points of the test loss
NOISE = 1.0  # variance of the observation noise
NOISES = (0.1, 0.25, 0.5, 1.0, 2.0)
# Key of `Models.values` -> name in the tables.
CRITERIA = {
    "evidence": "-log P(D)",
    "bound": "-L(D)",
    "sotl": "SoTL",
    "sotl_run": "SoTL (1)",
    "final": "final loss",
    "final_run": "final (1)",
    "fit": "final (mean)",
    "test": "test loss",
}
COLORS = {
    "evidence": "black",
    "bound": "#0072b2",
    "sotl": "#d55e00",
    "final": "#009e73",
    "fit": "#cc79a7",
}


@dataclass(frozen=True)
class Models:
    """Both models on many draws of the data.

    Attributes:
        at: The numbers of points n.
        values: Criterion -> its values in nats, shape `(draws, 2, len(at))`.
    """

    at: tuple[int, ...]
    values: dict[str, Array]

    def gap(self, name: str) -> Array:
        """Return how much worse model 1 is by a criterion, in nats, shape `(draws, len(at))`."""
        return self.values[name][:, 0] - self.values[name][:, 1]


def draw_data(points: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Return X of section 5.1, shape `(points, points + 1)`, and y, shape `(points,)`."""
    targets = generator.standard_normal(points)
    inputs = np.zeros((points, points + 1))
    inputs[:, 0] = targets + generator.standard_normal(points)
    inputs[np.arange(points), 1 + np.arange(points)] = generator.standard_normal(points)
    return inputs, targets


def embed(inputs: Array, model: int) -> Array:
    """Return the features that a model uses: all (model 1) or only the first (model 2)."""
    return inputs if model == 1 else inputs[:, :1]


def fresh_loss(posterior: Posterior, model: int, generator: np.random.Generator) -> float:
    """Return the mean loss of fresh points under the posterior predictive distribution.

    The noise of a fresh point is in a new column, and the weight of that column is still N(0, 1).
    """
    targets = generator.standard_normal(FRESH)
    rows = np.zeros((FRESH, posterior.mean.size))
    rows[:, 0] = targets + generator.standard_normal(FRESH)
    own = np.square(generator.standard_normal(FRESH)) if model == 1 else 0.0
    mean, variance = posterior.predict(rows)
    return float(-log_density(targets - mean, variance + own + posterior.noise).mean())


def compare(
    at: tuple[int, ...], draws: int, noise: float, generator: np.random.Generator
) -> Models:
    """Draw data sets, and measure and check both models on each."""
    values = {name: np.empty((draws, 2, len(at))) for name in CRITERIA}
    columns = np.array(at) - 1
    for draw in tqdm(range(draws), desc=f"noise variance {noise:g}", leave=False):
        inputs, targets = draw_data(at[-1], generator)
        for model in (1, 2):
            rows = embed(inputs, model)
            options = {"at": at, "noise": noise}
            found, posteriors = measure(
                rows, targets, samples=SAMPLES, generator=generator, **options
            )
            check(found, rows, targets, **options)
            cell = {
                "evidence": found.evidence[columns],
                "bound": found.bound[columns],
                "sotl": found.sotl.mean(axis=0)[columns],
                "sotl_run": found.sotl[0, columns],
                "final": found.final.mean(axis=0),
                "final_run": found.final[0],
                "fit": found.fit,
                "test": [fresh_loss(posterior, model, generator) for posterior in posteriors],
            }
            for name, entry in cell.items():
                values[name][draw, model - 1] = entry
    return Models(at, values)


def share_right(gap: Array) -> Array:
    """Return the share of draws that rank model 2 first."""
    return (gap > 0).mean(axis=0)


def strength(gap: Array) -> Array:
    """Return the mean gap between the models, in standard deviations over the draws."""
    return gap.mean(axis=0) / gap.std(axis=0, ddof=1)


def print_tables(models: Models, others: dict[float, Models]) -> None:
    """Print the means of both models over n, and how each criterion ranks them."""
    shown = [name for name in CRITERIA if not name.endswith("_run")]
    print("\nMean over the draws in nats; lower is better. The test loss is per point.")
    print(f"{'n':>4} {'model':>5}" + "".join(f" {CRITERIA[name]:>12}" for name in shown))
    for column, count in enumerate(models.at):
        for model in (0, 1):
            cells = (models.values[name][:, model, column].mean() for name in shown)
            print(f"{count:4} {model + 1:5}" + "".join(f" {cell:12.3f}" for cell in cells))
    print("\nShare of draws that rank model 2 first, and model 1 minus model 2 in nats.")
    print(f"{'n':12}" + "".join(f"{count:>22}" for count in models.at))
    for name, label in CRITERIA.items():
        gap = models.gap(name)
        cells = zip(share_right(gap), gap.mean(axis=0), gap.std(axis=0, ddof=1), strict=True)
        texts = (f"{share:.0%} {mean:.2f} +- {spread:.2f}" for share, mean, spread in cells)
        print(f"{label:12}" + "".join(f"{text:>22}" for text in texts))
    print(f"\nShare of draws that rank model 2 first at n = {models.at[-1]}, by noise variance.")
    print(f"{'noise':12}" + "".join(f"{noise:>8g}" for noise in others))
    for name, label in CRITERIA.items():
        shares = (share_right(other.gap(name))[-1] for other in others.values())
        print(f"{label:12}" + "".join(f"{share:8.0%}" for share in shares))


def save_picture(path: Path, models: Models) -> None:
    """Draw the measures of both models over n, and the gaps between them."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in COLORS.items():
        for model, style in ((0, "-"), (1, "--")):
            mean = models.values[name][:, model].mean(axis=0) / models.at
            label = f"{CRITERIA[name]}, model {model + 1}"
            left.plot(models.at, mean, style, color=color, marker="o", label=label)
        gap = models.gap(name)
        mean, spread = gap.mean(axis=0), gap.std(axis=0, ddof=1)
        right.plot(models.at, mean, color=color, marker="o", label=CRITERIA[name])
        right.fill_between(models.at, mean - spread, mean + spread, color=color, alpha=0.15)
    right.axhline(0, color="gray", linewidth=0.8)
    left.set(xlabel="n", ylabel="nats per point", title="mean over the draws (lower is better)")
    right.set(xlabel="n", ylabel="nats", title="model 1 minus model 2, mean and standard deviation")
    left.legend(fontsize=8, ncols=2)
    right.legend(fontsize=8)
    plotting.save(figure, path)


def summarize(models: Models, narrow: Models) -> str:
    """Return one sentence on whether the claim holds, by how much, and where it fails."""
    draws, last = len(models.gap("sotl")), models.at[-1]
    slack = (models.values["bound"] - models.values["evidence"])[:, :, -1].mean(axis=0)
    off = np.abs(models.values["sotl"] - models.values["bound"])[:, :, -1].mean(axis=0)

    def result(name: str) -> str:
        gap = models.gap(name)
        return f"{share_right(gap)[-1]:.0%} ({strength(gap)[-1]:.1f} standard deviations)"

    return (
        f"At n = {last}, L is below the log evidence in all {draws} draws, by {slack[0]:.1f} nats "
        f"for model 1 and {slack[1]:.1f} for model 2, and SoTL of {SAMPLES} samples is "
        f"{off[0]:.1f} and {off[1]:.1f} nats off L; model 2 is ranked first by the evidence in "
        f"{result('evidence')} of the draws, by SoTL of one sample in {result('sotl_run')}, by the "
        f"final training loss of one sample in {result('final_run')} and by that of the mean "
        f"weights in {result('fit')}; at noise variance {NOISES[0]:g}, SoTL ranks it first in "
        f"{share_right(narrow.gap('sotl'))[-1]:.0%}, the evidence in "
        f"{share_right(narrow.gap('evidence'))[-1]:.0%} and the test loss in "
        f"{share_right(narrow.gap('test'))[-1]:.0%} of the draws."
    )


def main() -> None:
    """Compare the models, print the tables, save the picture and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="seed of data and samples")
    parser.add_argument("--smoke", action="store_true", help="6 draws of at most 20 points")
    default = Path(__file__).parents[1] / "output"
    parser.add_argument("--output", type=Path, default=default, metavar="DIR")
    options = parser.parse_args()
    at, draws = ((5, 10, 20), 6) if options.smoke else ((5, 10, 20, 50, 100), 100)

    generator = np.random.default_rng(options.seed)
    models = compare(at, draws, NOISE, generator)
    others = {noise: compare(at, draws // 2, noise, generator) for noise in NOISES}
    print_tables(models, others)
    picture = options.output / "fig1_bayesian_regression.png"
    save_picture(picture, models)
    print(f"\npicture in {os.path.relpath(picture)}\n")
    print(summarize(models, others[NOISES[0]]))


if __name__ == "__main__":
    main()
