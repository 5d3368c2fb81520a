"""The stopping policies of a replay, by name."""

from __future__ import annotations

import importlib.util

from lightning_sotl.replay.policies.adaptive import named_adaptive
from lightning_sotl.replay.policies.baselines import FIRST_RUNG, named_baseline
from lightning_sotl.replay.policy import Policy

# Listed here because the modules of these policies import Optuna and Ray.
_OPTUNA = (
    "optuna-halving",
    "optuna-hyperband",
    "optuna-median",
    "optuna-percentile",
    "optuna-patient",
)
_RAY = ("ray-asha", "ray-hyperband")
_ADAPTIVE = ("adaptive", "adaptive-pause", "adaptive-keep2")
# One example of each kind, for error messages.
_BASELINES = ("fixed-t10-top5", "halving", "halving-eta3-from3", "asha-promote")
_KNOWN = ("full", *_ADAPTIVE, *_BASELINES, *_OPTUNA, *_RAY)


def named_policy(name: str) -> Policy:
    """Return the policy with a name.

    Args:
        name: The name. It begins with a family such as "adaptive-". `named_adaptive`,
            `named_baseline`, `OptunaPolicy` and `RayPolicy` describe the names of each family.

    Raises:
        ValueError: If there is no such policy. The message lists the available ones.
        ModuleNotFoundError: If the policy needs a package that is not installed.

    Examples:
        >>> named_policy("halving-val").name
        'halving-val'
    """
    match name.partition("-")[0]:
        case "full" | "fixed" | "halving" | "asha":
            return named_baseline(name)
        case "adaptive":
            return named_adaptive(name)
        case "optuna":
            from lightning_sotl.replay.policies.optuna import OptunaPolicy

            return OptunaPolicy(name)
        case "ray":
            from lightning_sotl.replay.policies.ray import RayPolicy

            return RayPolicy(name)
    raise ValueError(
        f"There is no policy {name!r}; available: {', '.join(map(repr, _KNOWN))}. You can change "
        "the numbers. All except 'full' also exist with the ending '-val', and 'adaptive' with "
        "'-both'."
    )


def default_names(epochs: int, *, has_validation: bool) -> list[str]:
    """Return the names of the policies that a replay compares by default, one of each kind.

    These are full training, the adaptive rule for runs that are stopped and for runs that take
    turns, a fixed T, and halving. If Optuna and Ray are installed, Hyperband, Optuna's default
    pruner and ASHA are added. If there are validation values, the built-in policies that read them
    are added.

    `all_names` adds variants whose results are close to these: other numbers, ASHA with promotion,
    Optuna's halving (which is ASHA), Optuna's rules that differ from the median rule only in the
    threshold, and Ray's Hyperband.

    Args:
        epochs: The number of epochs of the curves. The fixed T is a fifth of it.
        has_validation: Whether there are validation values.

    Examples:
        >>> default_names(50, has_validation=False)[:5]
        ['full', 'adaptive', 'adaptive-pause', 'fixed-t10-top5', 'halving']
    """
    adaptive = _ADAPTIVE[:2]
    own = [*adaptive, *_fixed(epochs)[:1], *_halving(epochs)[:1]]
    installed = _installed()
    peers = [name for name in ("optuna-hyperband", "optuna-median", _RAY[0]) if name in installed]
    names = ["full", *own, *peers]
    if not has_validation:
        return names
    return [*names, *(f"{name}-both" for name in adaptive), *(f"{name}-val" for name in own)]


def all_names(epochs: int, *, has_validation: bool) -> list[str]:
    """Return the names of all policies, by training losses and by validation values.

    Args:
        epochs: The number of epochs of the curves. The fixed Ts are a fifth and a half of it.
        has_validation: Whether there are validation values.

    Examples:
        >>> all_names(50, has_validation=False)[:5]
        ['full', 'adaptive', 'adaptive-pause', 'adaptive-keep2', 'fixed-t10-top5']
    """
    names = [*_ADAPTIVE, *_fixed(epochs), *_halving(epochs), *_installed()]
    if not has_validation:
        return ["full", *names]
    both = [f"{name}-both" for name in _ADAPTIVE]
    return ["full", *names, *both, *(f"{name}-val" for name in names)]


def _fixed(epochs: int) -> list[str]:
    limits = dict.fromkeys(limit for limit in (epochs // 5, epochs // 2) if limit >= 1)
    return [f"fixed-t{limit}-top5" for limit in limits]


def _halving(epochs: int) -> list[str]:
    return ["halving", "asha-promote"] if epochs > FIRST_RUNG else []


def _installed() -> list[str]:
    """Return the policies of Optuna and Ray, for each of the two that is installed."""
    optuna = _OPTUNA if importlib.util.find_spec("optuna") is not None else ()
    ray = _RAY if importlib.util.find_spec("ray") is not None else ()
    return [*optuna, *ray]
