"""The stopping policies of a replay by name."""

from __future__ import annotations

import importlib.util

from lightning_sotl.replay.policies.adaptive import named_adaptive
from lightning_sotl.replay.policies.baselines import FIRST_RUNG, named_baseline
from lightning_sotl.replay.policy import Policy

# Written out here because the modules of these policies import Optuna and Ray.
_OPTUNA = (
    "optuna-halving",
    "optuna-hyperband",
    "optuna-median",
    "optuna-percentile",
    "optuna-patient",
)
_RAY = "ray-asha"
_ADAPTIVE = ("adaptive", "adaptive-keep2")
# An example of each kind, for messages.
_BASELINES = ("fixed-t10-top5", "halving", "halving-eta3-from3")
_KNOWN = ("full", *_ADAPTIVE, *_BASELINES, *_OPTUNA, _RAY)


def named_policy(name: str) -> Policy:
    """Return the policy of a name.

    Args:
        name: The family up to the first "-"; `named_adaptive`, `named_baseline`, `OptunaPolicy`
            and `RayPolicy` tell what may follow.

    Raises:
        ValueError: If there is no such policy; the message lists what exists.
        ModuleNotFoundError: If the policy needs a package that is not installed.

    Example:
        >>> named_policy("halving-val").name
        'halving-val'
    """
    match name.partition("-")[0]:
        case "full" | "fixed" | "halving":
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
        f"There is no policy {name!r}; available: {', '.join(map(repr, _KNOWN))}, with other "
        "numbers too, all but 'full' also with the ending '-val', and 'adaptive' with '-both'."
    )


def default_names(epochs: int, *, has_validation: bool, peers_read_both: bool = False) -> list[str]:
    """Return the names of the policies that are compared by default.

    These are the built-in policies that E allows, by training losses and by validation values, and
    the policies of Optuna and Ray, if these are installed, by training losses.

    Args:
        epochs: E of the curves; the fixed T's are a fifth and a half of it.
        has_validation: Whether there are validation values.
        peers_read_both: Whether to add Optuna's and Ray's policies by validation values as well.

    Example:
        >>> default_names(50, has_validation=False)[:5]
        ['full', 'adaptive', 'adaptive-keep2', 'fixed-t10-top5', 'fixed-t25-top5']
    """
    fixed = dict.fromkeys(t for t in (epochs // 5, epochs // 2) if t >= 1)
    own = [*_ADAPTIVE, *(f"fixed-t{t}-top5" for t in fixed)]
    if epochs > FIRST_RUNG:
        own.append("halving")
    peers: list[str] = []
    if importlib.util.find_spec("optuna") is not None:
        peers += _OPTUNA
    if importlib.util.find_spec("ray") is not None:
        peers.append(_RAY)
    names = ["full", *own, *peers]
    if has_validation:
        by_validation = [*own, *peers] if peers_read_both else own
        names += [f"{name}-both" for name in _ADAPTIVE]
        names += [f"{name}-val" for name in by_validation]
    return names
