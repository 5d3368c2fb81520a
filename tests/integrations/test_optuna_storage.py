"""Runs that report to an Optuna storage that fails for a while."""

import re
import socket

import optuna
import pytest
from optuna.storages._grpc.server import make_server
from pytorch_lightning import Callback

from tests.support.helpers import returned_epoch_losses
from tests.support.optuna_runs import NEVER_PRUNES, fit, storage


def test_a_storage_that_fails_for_a_moment_loses_no_report(tmp_path, monkeypatch):
    memory = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=memory, pruner=NEVER_PRUNES)
    write, fails = memory.set_trial_intermediate_value, iter([True] * 3)

    def flaky(*args):
        if next(fails, False):
            raise ConnectionError("gone")
        write(*args)

    monkeypatch.setattr(memory, "set_trial_intermediate_value", flaky)
    message = "The trial's storage failed three times (ConnectionError: gone); the run continues"
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}"):
        reporter, _ = fit(tmp_path, study.ask())
    reporter.finish()
    assert sorted(study.trials[0].intermediate_values) == [0, 1, 2]


class Outage(Callback):
    """Stops a gRPC server after epoch 0 and starts it again after epoch 1."""

    def __init__(self, storage, port):
        self.storage, self.port = storage, port
        self.server = self.start()

    def start(self):
        # Optuna's public function blocks until the server ends.
        server = make_server(self.storage, "localhost", self.port)
        server.start()
        return server

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.server.stop(None).wait()
        elif trainer.current_epoch == 2:
            self.server = self.start()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of the gRPC proxy
def test_a_grpc_server_that_is_down_for_an_epoch_loses_no_report(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    outage = Outage(storage("sqlite", tmp_path), port)
    proxy = optuna.storages.GrpcStorageProxy(port=port)
    proxy.wait_server_ready(timeout=30)
    study = optuna.create_study(storage=proxy, pruner=NEVER_PRUNES)
    trial = study.ask()
    with pytest.warns(UserWarning, match=r"^The trial's storage failed three times \(_InactiveRpc"):
        reporter, model = fit(tmp_path, trial, outage)
    proxy.wait_server_ready(timeout=30)
    study.tell(trial, reporter.finish())
    outage.server.stop(None).wait()
    (frozen,) = optuna.load_study(study_name=study.study_name, storage=outage.storage).trials
    expected = returned_epoch_losses(model)
    assert frozen.intermediate_values == pytest.approx(expected, rel=1e-12)
    assert frozen.value == pytest.approx(expected[2], rel=1e-12)
