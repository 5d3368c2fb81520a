"""PINA's competitive solver trains a network against a discriminator, by manual optimization."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "pina-mathlab"
REQUIREMENTS = ["pina-mathlab==0.3.2.post2610", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "`pina.Trainer`"


def train(run: Run) -> None:
    import torch
    from pina import Trainer
    from pina.model import FeedForward
    from pina.optim import TorchOptimizer
    from pina.problem.zoo import Poisson2DSquareProblem
    from pina.solver import CompetitivePhysicsInformedSolver

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(8, "grid")
    solver = CompetitivePhysicsInformedSolver(
        problem,
        FeedForward(input_dimensions=2, output_dimensions=1, layers=[16, 16]),
        optimizer_model=TorchOptimizer(torch.optim.Adam, lr=run.learning_rate),
        optimizer_discriminator=TorchOptimizer(torch.optim.Adam, lr=run.learning_rate),
    )
    trainer = Trainer(
        solver,
        batch_size=16,
        shuffle=False,  # the order is drawn before the checkpoint is loaded
        max_epochs=run.epochs,
        accelerator="cpu",
        callbacks=run.callbacks,
        default_root_dir=run.folder,
    )
    trainer.train(ckpt_path=run.checkpoint, weights_only=False)
