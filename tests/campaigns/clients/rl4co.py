"""RL4CO's PPO optimizes manually, several times in a step, and returns several losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "rl4co"
REQUIREMENTS = ["rl4co==0.7.0", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "`RL4COTrainer`, with `loss_key`"
LOSS_KEY = "train/value_loss"


def train(run: Run) -> None:
    import numpy as np
    from rl4co.envs import TSPEnv
    from rl4co.models import PPO, AttentionModelPolicy
    from rl4co.utils import RL4COTrainer

    towns = np.random.default_rng(0).random(size=(48, 6, 2), dtype="float32")
    np.savez(run.folder / "towns.npz", locs=towns)
    environment = TSPEnv(
        generator_params={"num_loc": 6}, data_dir=str(run.folder), train_file="towns.npz"
    )
    policy = AttentionModelPolicy(
        env_name="tsp", embed_dim=16, num_heads=2, num_encoder_layers=1, feedforward_hidden=16
    )
    model = PPO(
        environment,
        policy,
        critic_kwargs={"embed_dim": 16, "hidden_dim": 16},
        batch_size=16,
        ppo_epochs=1,
        mini_batch_size=8,
        val_data_size=16,
        test_data_size=16,
        optimizer_kwargs={"lr": run.learning_rate},
    )
    trainer = RL4COTrainer(
        max_epochs=run.epochs,
        accelerator="cpu",
        precision="32-true",
        matmul_precision="highest",
        callbacks=run.callbacks,
        default_root_dir=run.folder,
    )
    trainer.fit(model, ckpt_path=run.checkpoint)
