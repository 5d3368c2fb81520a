"""Saves the random state at a stop, and restores it when the run is resumed."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_sotl._utils.files import find_moved
from lightning_sotl._utils.text import pluralize
from lightning_sotl.callbacks._generators import (
    generator_states,
    sampler_orders,
    set_generator_states,
    set_sampler_orders,
)
from lightning_sotl.callbacks._trainer import (
    Trainer,
    batches_into_epoch,
    end_epoch_of_loaders,
    loader_states,
    restart_loaders,
    start_next_epoch_fresh,
    training_loaders,
)

_PLANS = "lightning_sotl_planned_checkpoints"  # an entry of checkpoints: state key -> path


def gather_random_states(
    trainer: Trainer, own_loader_states: list[Any] | None = None
) -> list[dict[str, Any]]:
    """Return the random states and loader states of all ranks; every rank must call it.

    They are plain types that `weights_only` can load.

    Args:
        trainer: The Trainer.
        own_loader_states: The loader states of this rank, or None for the current ones.
    """
    own = _random_state(trainer)
    own["loader_states"] = (
        loader_states(trainer) if own_loader_states is None else own_loader_states
    )
    states = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(states, own)
    return states


def resume_as_if_never_stopped(trainer: Trainer, states: list[dict[str, Any]]) -> None:
    """Restore the random states that a stop saved, in `on_train_start` of the resumed run.

    Raises:
        RuntimeError: If the states were saved with another number of ranks or with other loader
            generators.
    """
    if len(states) != trainer.world_size:
        raise RuntimeError(
            f"Expected to resume on {len(states)} ranks, as when the random state was saved, but "
            f"got {trainer.world_size}."
        )
    state = states[trainer.global_rank]
    own_loader_states = state.get("loader_states", [])  # absent in an older checkpoint
    if batches_into_epoch(trainer) == 0:
        start_next_epoch_fresh(trainer)
        # An uninterrupted run never creates the iterator that is discarded here.
        end_epoch_of_loaders(trainer, own_loader_states)
    elif trainer.global_rank and own_loader_states:
        restart_loaders(trainer, own_loader_states)  # Lightning has loaded those of rank 0
    _set_random_state(trainer, state)  # after the iterators, which draw from it


def saved_loader_states(checkpoint: dict[str, Any]) -> list[Any]:
    """Return the states of the training loaders in a checkpoint; most loaders have no state."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return list(loop.get("state_dict", {}).get("combined_loader", []))


def put_loader_states(checkpoint: dict[str, Any], states: list[Any]) -> None:
    """Put states of the training loaders into a checkpoint that Lightning is about to save."""
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = states


def saved_plan(checkpoint: dict[str, Any], state_key: str) -> str | None:
    """Return the path at which a stopper was about to save when a checkpoint was saved, if any."""
    path: str | None = checkpoint.get(_PLANS, {}).get(state_key)
    return path


def put_plan(checkpoint: dict[str, Any], state_key: str, path: str | None) -> None:
    """Put the path at which the stopper is about to save, if any, into a checkpoint."""
    if path is not None:
        checkpoint.setdefault(_PLANS, {})[state_key] = path


def new_checkpoint_path(trainer: Trainer, at: str, directory: str | Path | None) -> str:
    """Return the path at which a stop saves its checkpoint, the same on all ranks.

    It is in `directory` if given, otherwise beside Lightning's own checkpoints. Its name is unique,
    because runs may share the folder.
    """
    own = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    folders = filter(None, [directory, *own, Path(trainer.default_root_dir) / "checkpoints"])
    folder = str(next(folders))
    folder = _absolute(folder)  # because readers of the record may run in other directories
    path = f"{folder.rstrip('/')}/stopped-{at}-{uuid.uuid4().hex[:8]}.ckpt"
    return str(trainer.strategy.broadcast(path))


def checkpoint_of_stop(planned: str | None, loaded: str) -> str:
    """Return the checkpoint to promote from, for a run that is started again after its stop.

    Args:
        planned: The path at which the stop was about to save when `loaded` was saved, if any.
        loaded: The checkpoint from which the run is started. It is returned if the run was killed
            between the decision to stop and the save.
    """
    own = None if planned is None else find_moved(planned, [Path(loaded).parent])
    return _absolute(loaded) if own is None else own


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _set_random_state(trainer: Trainer, state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    saved = state["numpy"]
    keys = np.array(saved["keys"], dtype=np.uint32)
    np.random.set_state(  # noqa: NPY002  # users draw from the global state
        ("MT19937", keys, saved["position"], saved["has_gauss"], saved["gauss"])
    )
    if state["cuda"] is not None and trainer.strategy.root_device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], trainer.strategy.root_device)
    generators = _loader_generators(trainer)
    expected = len(state["loaders"])
    if len(generators) != expected:
        raise RuntimeError(
            f"Expected the training loaders to have {pluralize(expected, 'generator')}, as when "
            f"the random state was saved, but got {len(generators)}."
        )
    for generator, generator_state in zip(generators, state["loaders"], strict=True):
        generator.set_state(generator_state)
    set_generator_states(trainer, state.get("other_generators"))
    if "sampler_orders" in state:
        set_sampler_orders(trainer, state["sampler_orders"])


def _random_state(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  # users draw from the global state
    others, orders = generator_states(trainer), sampler_orders(trainer)
    return {
        "torch": torch.get_rng_state(),
        "python": (version, list(internal), gauss),
        "numpy": {
            "keys": legacy["state"]["key"].tolist(),
            "position": int(legacy["state"]["pos"]),
            "has_gauss": int(legacy["has_gauss"]),
            "gauss": float(legacy["gauss"]),
        },
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "loaders": [generator.get_state() for generator in _loader_generators(trainer)],
        **({"other_generators": others} if others else {}),
        **({"sampler_orders": orders} if orders else {}),
    }


def _loader_generators(trainer: Trainer) -> list[torch.Generator]:
    """Return the torch generators that the user passed to the training loaders or samplers."""
    found = (getattr(part, "generator", None) for part in training_loaders(trainer))
    # A loader and its sampler share one generator.
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
