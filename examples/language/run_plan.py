"""The plan of the benchmark: the recipe that all runs share, and the runs of each set.

- `main`: 100 runs over architecture, depth, width, heads, learning rate, warm-up and weight decay,
  at one batch size and without dropout. 40 of them draw the learning rate from a wide range, 60
  from a close one (a factor of 4). All of them read the text in the same order.
- `seeds`: the first 15 of the close runs of `main` again, with 2 more seeds. A seed changes the
  initial weights and the order of the text, and the order is the same for all runs of one repeat.
- `varied`: 40 runs with a learning rate from the close range, in which dropout and batch size vary
  too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

WARMUPS = (0.01, 0.05, 0.1, 0.2)
WEIGHT_DECAYS = (0.0, 0.01, 0.1, 0.3)
DEPTHS = {"transformer": (1, 2, 3, 4), "gru": (1, 2)}
WIDTHS = {"transformer": (32, 48, 64, 96), "gru": (48, 64, 96, 128)}
HEADS = (1, 2, 4)
TRANSFORMERS = 0.7  # the share of the runs
DROPOUTS = (0.0, 0.05, 0.1, 0.2)
BATCH_SIZES = (4, 8, 16, 32)
REPEATS = 3

Architecture = Literal["transformer", "gru"]


@dataclass(frozen=True)
class Recipe:
    """What all runs share.

    AdamW with betas 0.9 and 0.95, gradients clipped at norm 1, linear warm-up, then a cosine to 0
    at the last step. Weight decay acts on matrices only.

    Args:
        context: Bytes in a sequence.
        block_sequences: Training sequences in a block; a multiple of each batch size.
        blocks: The number of blocks, all of different text.
        validation: The number of held-out sequences after each block.
        test: The number of other held-out sequences at the end.
    """

    context: int
    block_sequences: int
    blocks: int = 40
    validation: int = 128
    test: int = 1024


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Unique in the plan.
        group: "main", "seeds" or "varied".
        architecture: "transformer" or "gru".
        depth: The number of layers.
        width: Of each layer.
        heads: Attention heads; 0 for a GRU.
        learning_rate: The highest, at the end of the warm-up.
        warmup: The share of the steps with a rising learning rate.
        weight_decay: Of the matrices.
        rates: The range of the learning rate, "wide" or "close".
        repeat: 0, 1, ...; runs of one repeat read the text in the same order.
        seed: Of the initial weights and of dropout.
        dropout: In [0, 1).
        batch_size: Sequences in a step.
    """

    name: str
    group: str
    architecture: Architecture
    depth: int
    width: int
    heads: int
    learning_rate: float
    warmup: float
    weight_decay: float
    rates: str
    repeat: int
    seed: int
    dropout: float = 0.0
    batch_size: int = 8


@dataclass(frozen=True)
class Plan:
    """How many runs to draw, and from which learning rates.

    Args:
        wide: Runs of `main` with a learning rate from the wide range.
        close: Runs of `main` with a learning rate from the close range.
        repeated: The number of runs with three seeds.
        varied: The number of runs with different dropout and batch size.
        wide_rates: Lowest and highest learning rate of the wide range.
        close_rates: The same of the close range.
    """

    wide: int
    close: int
    repeated: int
    varied: int
    wide_rates: tuple[float, float]
    close_rates: tuple[float, float]


SMOKE_RECIPE = Recipe(context=16, block_sequences=32, blocks=4, validation=8, test=16)
SMOKE = Plan(1, 1, 0, 0, wide_rates=(1e-4, 1e-1), close_rates=(1e-3, 4e-3))


def plan_runs(plan: Plan, seed: int = 0) -> list[Run]:
    """Return all runs in the order of their training, so that the first ones are useful alone."""
    close, wide = (
        draw_runs("close", plan, plan.close, seed),
        draw_runs("wide", plan, plan.wide, seed),
    )
    order = np.random.default_rng([seed, 1]).permutation(plan.close + plan.wide)
    main = [[*close, *wide][place] for place in order]
    again = [
        dataclasses.replace(
            run,
            name=f"{run.name}-seed{repeat}",
            group="seeds",
            repeat=repeat,
            seed=_seed_of(seed, run.name, repeat),
        )
        for run in close[: plan.repeated]
        for repeat in range(1, REPEATS)
    ]
    return [*main, *again, *draw_runs("varied", plan, plan.varied, seed)]


def draw_runs(kind: str, plan: Plan, count: int, seed: int) -> list[Run]:
    """Return runs drawn at random; `kind` is "wide", "close" or "varied"."""
    streams = {"wide": 2, "close": 3, "varied": 4}
    generator = np.random.default_rng([seed, streams[kind]])
    return [_draw_run(kind, plan, number, generator, seed) for number in range(count)]


def _draw_run(kind: str, plan: Plan, number: int, generator: np.random.Generator, seed: int) -> Run:
    name = f"{kind}-{number:03}"
    architecture: Architecture = "transformer" if generator.random() < TRANSFORMERS else "gru"
    lowest, highest = plan.wide_rates if kind == "wide" else plan.close_rates
    heads = int(generator.choice(HEADS))
    varied: dict[str, Any] = {}
    if kind == "varied":
        varied = {
            "dropout": float(generator.choice(DROPOUTS)),
            "batch_size": int(generator.choice(BATCH_SIZES)),
        }
    return Run(
        name=name,
        group="varied" if kind == "varied" else "main",
        architecture=architecture,
        depth=int(generator.choice(DEPTHS[architecture])),
        width=int(generator.choice(WIDTHS[architecture])),
        heads=heads if architecture == "transformer" else 0,
        # Rounded, so that the number in a file is exactly the one that was used.
        learning_rate=float(f"{np.exp(generator.uniform(np.log(lowest), np.log(highest))):.6g}"),
        warmup=float(generator.choice(WARMUPS)),
        weight_decay=float(generator.choice(WEIGHT_DECAYS)),
        rates="wide" if kind == "wide" else "close",
        repeat=0,
        seed=_seed_of(seed, name, 0),
        **varied,
    )


def _seed_of(seed: int, name: str, repeat: int) -> int:
    digest = hashlib.sha256(json.dumps([seed, name, repeat]).encode()).digest()
    return int.from_bytes(digest[:4], "big")
