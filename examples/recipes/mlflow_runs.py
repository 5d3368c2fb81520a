"""MLflow: three runs that stop at epoch T, ranked by MLflow's own search.

    python examples/recipes/mlflow_runs.py [--store sqlite:///mlflow.db]

Each run is FINISHED, not FAILED, because the stopper raises no error. A tag of the run has the path
of the checkpoint to promote it from. The script prints the best run first.

Needs: pip install mlflow-skinny sqlalchemy alembic; `mlflow` installs all three and the web
interface.
Time: 12 s of one CPU core, most of it imports and making the database.
"""

from __future__ import annotations

import argparse

import mlflow
from digits_model import DigitsModel
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import MLFlowLogger

from lightning_sotl import EarlyRankingStopper, SoTLMonitor


def main() -> None:
    """Train three widths to T and print them in the order of MLflow's search."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", default="sqlite:///mlflow.db", help="MLflow's tracking URI")
    store = parser.parse_args().store
    for width in (4, 16, 64):
        seed_everything(0)
        stopper = EarlyRankingStopper(stop_epoch=3)
        logger = MLFlowLogger("digits", f"width {width}", tracking_uri=store)
        Trainer(
            max_epochs=30,
            callbacks=[SoTLMonitor(), stopper],
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(DigitsModel(width))
        logger.experiment.set_tag(logger.run_id, "checkpoint", stopper.checkpoint_path)
    mlflow.set_tracking_uri(store)
    for run in mlflow.search_runs(
        experiment_names=["digits"], order_by=["metrics.sotl_e1"], output_format="list"
    ):
        print(f"{run.info.run_name}: {run.data.metrics['sotl_e1']:.2f}, {run.info.status}")


if __name__ == "__main__":
    main()
