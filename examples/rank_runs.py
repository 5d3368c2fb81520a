"""From a sweep's log directory to a ranking, a verdict on it, and two pictures.

Claim: from the files that a sweep leaves behind, one sees which run is best, how sure that is, and
which T would have been enough. Give it your own directory of runs, or none: then it first trains a
small sweep on scikit-learn's digits, every run to the end. Under a minute on two cores.

    python examples/rank_runs.py [LOGS --target test_acc --val-metric val_acc] [--smoke] [--seed S]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np

from lightning_sotl import LearningCurves, evaluate
from lightning_sotl.cli import main as lightning_sotl

OUTPUT = Path(__file__).parent / "output"


def main() -> None:
    """Rank the runs, judge the ranking, draw both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="?", help="directory of runs; without it one is made")
    parser.add_argument("--target", default="test_acc", help="key of the final metric")
    parser.add_argument("--val-metric", default="val_acc", help="key of the validation metric")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where pictures and logs go")
    parser.add_argument("--smoke", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logs = options.logs or str(options.output / "rank_runs_logs")
    if options.logs is None:
        shutil.rmtree(logs, ignore_errors=True)
        train_sweep(
            Path(logs),
            runs=4 if options.smoke else 20,
            epochs=4 if options.smoke else 10,
            seed=options.seed,
        )
    keys = ["--target", options.target, "--val-metric", options.val_metric]
    order, verdicts = options.output / "rank_runs.png", options.output / "rank_runs_evaluation.png"
    for command in (
        ["rank", logs, "--top", "5", "--plot", str(order)],
        ["evaluate", logs, *keys, "--plot", str(verdicts)],
    ):
        code = lightning_sotl(command)
        if code:  # it has said why
            sys.exit(code)
    print(f"Pictures: {order} and {verdicts}")
    print(verdict(logs, options.target, options.val_metric))


def verdict(logs: str, target: str, val_metric: str) -> str:
    """Return one sentence that compares SoTL-E with the validation metric early on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the commands above have said it all
        curves = LearningCurves.from_logs(logs, final_metric=target, val_metric=val_metric)
    early = max(1, curves.epochs // 4)
    found = evaluate(curves, at=[early], estimators=["sotl-e1", "val-metric"]).estimators
    sotl, metric = found["sotl-e1"][early], found["val-metric"][early]
    return (
        f"After {early} of {curves.epochs} epochs SoTL-E ranks {curves.runs} runs with Spearman "
        f"{sotl.rho:.2f} [{sotl.low:.2f}, {sotl.high:.2f}] against the final {target}, "
        f"{val_metric} with {metric.rho:.2f} [{metric.low:.2f}, {metric.high:.2f}]."
    )


def train_sweep(logs: Path, *, runs: int, epochs: int, seed: int) -> None:
    """Train small networks of random widths and depths to the end, with the monitor attached."""
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.loggers import CSVLogger
    from torch.nn import functional
    from torch.utils.data import DataLoader, TensorDataset
    from tqdm import tqdm

    from lightning_sotl import SoTLMonitor

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    torch.set_num_threads(1)  # networks this small only wait for each other's threads
    generator = np.random.default_rng(seed)
    train, val, test = digits(generator)

    class Network(pl.LightningModule):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            self.save_hyperparameters()
            sizes = [64, *[width] * depth]
            layers: list[torch.nn.Module] = []
            for before, after in itertools.pairwise(sizes):
                layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
            self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(width, 10))

        def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
            return functional.cross_entropy(self.layers(batch[0]), batch[1])

        def validation_step(self, batch: list[torch.Tensor]) -> None:
            self.log("val_acc", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

        def test_step(self, batch: list[torch.Tensor]) -> None:
            self.log("test_acc", (self.layers(batch[0]).argmax(1) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    def loader(data: tuple[np.ndarray, np.ndarray], *, shuffle: bool) -> DataLoader:
        images, labels = torch.tensor(data[0], dtype=torch.float32), torch.tensor(data[1])
        size = 32 if shuffle else len(labels)
        return DataLoader(TensorDataset(images, labels), batch_size=size, shuffle=shuffle)

    for _ in tqdm(range(runs), desc="sweep"):
        torch.manual_seed(int(generator.integers(2**31)))
        model = Network(int(2 ** generator.integers(2, 8)), int(generator.integers(1, 4)))
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            callbacks=[SoTLMonitor()],
            logger=CSVLogger(logs, name=""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, loader(train, shuffle=True), loader(val, shuffle=False))
        trainer.test(model, loader(test, shuffle=False), verbose=False)


def digits(generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return scikit-learn's 1,797 digits in three parts: training, validation, test."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = generator.permutation(len(labels))
    return [(images[part] / 16, labels[part]) for part in np.split(order, [797, 1297])]


if __name__ == "__main__":
    main()
