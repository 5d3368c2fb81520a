"""Promotion: what a stop saves, and how a run resumes from it as if it had never stopped."""

from __future__ import annotations

import random
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_sotl._utils.files import find_moved
from lightning_sotl.callbacks._generators import (
    generator_states,
    sampler_orders,
    set_generator_states,
    set_sampler_orders,
)
from lightning_sotl.callbacks._trainer import (
    Trainer,
    batches_into_epoch,
    loader_states,
    set_loader_states,
    start_next_epoch_fresh,
    training_loaders,
)

_PLANS = "lightning_sotl_planned_checkpoints"  # an entry of checkpoints: state key -> path


def gather_random_states(trainer: Trainer) -> list[dict[str, Any]]:
    """Return the random state of every rank, in plain types that `weights_only` can load.

    With it goes the state of loaders that have one. All ranks must call it: it gathers from all.
    """
    own = _random_state(trainer)
    states = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(states, own)
    return states


def resume_as_if_never_stopped(trainer: Trainer, states: list[dict[str, Any]]) -> None:
    """Set the random state that a stop saved, in `on_train_start` of the resumed run.

    Raises:
        RuntimeError: If the states were saved with another number of ranks or of loader generators.
    """
    if len(states) != trainer.world_size:
        raise RuntimeError(
            f"Expected to resume on {len(states)} ranks, as the random state was saved on, but "
            f"got {trainer.world_size}."
        )
    state = states[trainer.global_rank]
    _set_random_state(trainer, state)
    if batches_into_epoch(trainer) == 0:
        start_next_epoch_fresh(trainer)
        # The iterator that is thrown away was one more than an uninterrupted run makes.
        set_loader_states(trainer, state.get("loader_states", []))


def saved_loader_states(checkpoint: dict[str, Any]) -> list[Any]:
    """Return the states of the training loaders in a checkpoint; most loaders have none."""
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    return list(loop.get("state_dict", {}).get("combined_loader", []))


def put_loader_states(checkpoint: dict[str, Any], states: list[Any]) -> None:
    """Put the states of the training loaders into a checkpoint that Lightning is about to save."""
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = states


def saved_plan(checkpoint: dict[str, Any], state_key: str) -> str | None:
    """Return where a stopper was about to save when the checkpoint was saved, or None."""
    path: str | None = checkpoint.get(_PLANS, {}).get(state_key)
    return path


def put_plan(checkpoint: dict[str, Any], state_key: str, path: str | None) -> None:
    """Put into a checkpoint where the stopper is about to save, if it is."""
    if path is not None:
        checkpoint.setdefault(_PLANS, {})[state_key] = path


def new_checkpoint_path(trainer: Trainer, at: str, directory: str | Path | None) -> str:
    """Return where a stop saves, the same on all ranks.

    That is in `directory`, or else beside Lightning's own checkpoints. Runs may share the folder,
    so the name is unique.
    """
    own = [getattr(callback, "dirpath", None) for callback in trainer.checkpoint_callbacks]
    folders = filter(None, [directory, *own, Path(trainer.default_root_dir) / "checkpoints"])
    folder = str(next(folders))
    folder = _absolute(folder)  # the record is read from other directories too
    path = f"{folder.rstrip('/')}/stopped-{at}-{uuid.uuid4().hex[:8]}.ckpt"
    return str(trainer.strategy.broadcast(path))


def checkpoint_of_stop(planned: str | None, loaded: str) -> str:
    """Return the checkpoint to promote from, for a run that is started again at its stop.

    Args:
        planned: Where the stop was about to save when the loaded checkpoint was saved.
        loaded: The checkpoint that the run is started from. It is used if a kill came between the
            decision to stop and the save.
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
    np.random.set_state(  # noqa: NPY002  # the global state is the point
        ("MT19937", keys, saved["position"], saved["has_gauss"], saved["gauss"])
    )
    if state["cuda"] is not None and trainer.strategy.root_device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], trainer.strategy.root_device)
    generators = _loader_generators(trainer)
    if len(generators) != len(state["loaders"]):
        raise RuntimeError(
            f"Expected the training loaders to have {len(state['loaders'])} generators, as where "
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
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  # the global state is the point
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
        "loader_states": loader_states(trainer),
        **({"other_generators": others} if others else {}),
        **({"sampler_orders": orders} if orders else {}),
    }


def _loader_generators(trainer: Trainer) -> list[torch.Generator]:
    """Return torch's generators that the user gave to the training loaders or their samplers."""
    found = (getattr(part, "generator", None) for part in training_loaders(trainer))
    # A loader and its sampler share theirs.
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
