"""scvi-tools' adversarial training optimizes manually, with two optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.campaigns.clients._trial import Run

LIBRARY = "scvi-tools"
REQUIREMENTS = ["scvi-tools==1.4.2", "lightning==2.6.6"]
PACKAGE = "lightning.pytorch"
INTERFACE = "`TOTALVI.train(callbacks=...)`"


def train(run: Run) -> None:
    import numpy as np
    import scvi
    from anndata import AnnData

    random = np.random.default_rng(0)
    cells, genes, proteins = 120, 20, 5
    data = AnnData(random.poisson(3, size=(cells, genes)).astype("float32"))
    data.obs["batch"] = ["first", "second"] * (cells // 2)
    data.obsm["proteins"] = random.poisson(10, size=(cells, proteins))
    scvi.model.TOTALVI.setup_anndata(
        data, batch_key="batch", protein_expression_obsm_key="proteins"
    )
    model = scvi.model.TOTALVI(data, n_latent=4, empirical_protein_background_prior=False)
    model.train(
        max_epochs=run.epochs,
        lr=run.learning_rate,
        batch_size=16,
        external_indexing=[np.arange(100), np.arange(100, cells)],  # its own split differs
        adversarial_classifier=True,
        accelerator="cpu",
        callbacks=run.callbacks,
        default_root_dir=str(run.folder),
        ckpt_path=run.checkpoint,
    )
