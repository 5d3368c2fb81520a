"""Models and loaders whose losses are known, for either Lightning package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
# Lightning 2.5 has no `weights_only` and always loads checkpoints with pickle.
IS_LIGHTNING_2_5 = version("pytorch-lightning").startswith("2.5.")
IS_TORCH_2_5 = torch.__version__.startswith("2.5.")  # it reads no set without pickle
SAFELY: dict[str, Any] = {} if IS_LIGHTNING_2_5 else {"weights_only": True}


def lightning(package: str = "pytorch_lightning") -> Any:
    """Return the Lightning package of that name."""
    return importlib.import_module(package)


def door(package: str = "pytorch_lightning") -> Any:
    """Return our callbacks for a Lightning package."""
    name = "lightning" if package == "lightning.pytorch" else package
    return importlib.import_module(f"lightning_sotl.{name}")


def scripted_loss(epoch: int, batch: int) -> float:
    """Return a loss that is exact in float32, differs for each step, and falls over the epochs."""
    return 4.0 / (epoch + 1) + ((7 * epoch + 3 * batch) % 11) / 16


class Batches(torch.utils.data.Dataset[torch.Tensor]):
    """`n` samples. The value of each sample is its index."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([float(index)])


class Stream(IterableDataset[torch.Tensor]):
    """The same `n` samples in a dataset without a length."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.arange(float(self.n)).reshape(self.n, 1))


def loader(n: int = 4, **kwargs: Any) -> DataLoader[torch.Tensor]:
    """Return a loader of `n` batches."""
    return DataLoader(Batches(n), batch_size=kwargs.pop("batch_size", 1), **kwargs)


class StatefulLoader:
    """A loader of `n` batches that Lightning can resume in the middle of an epoch."""

    def __init__(self, n: int = 4) -> None:
        self.n = n
        self.position = 0
        self.resumed = False

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[torch.Tensor]:
        if not self.resumed or self.position == self.n:
            self.position = 0
        self.resumed = False
        while self.position < self.n:
            self.position += 1
            yield torch.tensor([[float(self.position - 1)]])

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]
        self.resumed = True


def _optimize_by_hand(module: Any, loss: torch.Tensor) -> None:
    """Step each optimizer, as a module does under manual optimization."""
    optimizers = module.optimizers()
    for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
        optimizer.zero_grad()
        module.manual_backward(loss, retain_graph=True)
        optimizer.step()


def _log_batch_mean(module: Any, batch: Any, batch_idx: int) -> None:
    module.log("val_loss", batch.mean())


def scripted_model(
    package: str = "pytorch_lightning",
    *,
    loss: Callable[[int, int], float] = scripted_loss,
    output: Callable[[torch.Tensor], Any] = lambda value: value,
    automatic: bool = True,
    val: bool = False,
    by_batch: bool = False,
) -> Any:
    """Return a module whose step returns `output(loss(epoch, batch))`.

    Its `returned` lists (epoch, batch index, loss) for each step.

    Args:
        package: The Lightning package of the module.
        loss: (epoch, batch index) -> the loss, or None for a step without a loss.
        output: The 0-d loss, with its graph -> the output of the step.
        automatic: Whether Lightning optimizes.
        val: Whether there is a validation step.
        by_batch: Whether the batch index is read from the batch, for loaders that resume.
    """
    pl = lightning(package)

    class ScriptedLossModel(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = automatic
            self.weight = torch.nn.Parameter(torch.ones(()))
            self.returned: list[tuple[int, int, float]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            index = int(batch.flatten()[0]) if by_batch else batch_idx
            epoch = self.trainer.current_epoch
            value = loss(epoch, index)
            if value is None:
                return None
            tensor = self.weight * 0 + value
            self.returned.append((epoch, index, float(tensor.detach())))
            if not automatic:
                _optimize_by_hand(self, tensor)
            return output(tensor)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        if val:
            validation_step = _log_batch_mean

            def val_dataloader(self) -> Any:
                return loader(2)

    return ScriptedLossModel()


def returned_epoch_losses(*models: Any) -> dict[int, float]:
    """Return e -> the mean of the losses that the models returned in epoch e, in float64.

    They are added from left to right. `sum` does not do that since Python 3.12.
    """
    sums: dict[int, list[float]] = {}
    for model in models:
        for epoch, _, value in model.returned:
            sums.setdefault(epoch, []).append(value)
    return {e: float(np.cumsum(values)[-1]) / len(values) for e, values in sums.items()}


def trainer(tmp_path: Any, package: str = "pytorch_lightning", **kwargs: Any) -> Any:
    """Return a quiet Trainer on the CPU."""
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 3,
        "log_every_n_steps": 1,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    return lightning(package).Trainer(**{**options, **kwargs})


def fit_with_stopper(
    tmp_path: Any,
    stopper: Any,
    *callbacks: Any,
    model: Any = None,
    batches: int = 4,
    monitor: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """Train a scripted model with a stopper and a monitor; return the model and the Trainer."""
    model = model or scripted_model()
    callbacks = (*callbacks, stopper, monitor or door().SoTLMonitor())
    run = trainer(tmp_path, callbacks=list(callbacks), **{"max_epochs": 8, **options})
    run.fit(model, loader(batches))
    return model, run


def message_with(caught: Any, text: str) -> str:
    """Return the only caught warning that contains `text`. Lightning and torch also warn."""
    (message,) = {str(entry.message) for entry in caught if text in str(entry.message)}
    return message
