"""The contents of TensorBoard's HPARAMS tab for a log directory, from TensorBoard's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler


def hparams_tab(folder: Path) -> dict[str, tuple[dict[str, Any], float | None]]:
    """Return run -> (hyper-parameters, `hp_metric`), in ascending order of `hp_metric`."""
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(folder))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(folder))
    backend = Context(TBContext(data_provider=provider, logdir=str(folder)))
    column = api_pb2.ColParams(metric=api_pb2.MetricName(tag="hp_metric"), order=api_pb2.ORDER_ASC)
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        col_params=[column],
        allowed_statuses=api_pb2.Status.values(),
        include_metrics=True,
    )
    groups = Handler(context.RequestContext(), backend, "", request).run().session_groups
    return {
        group.name: (
            {name: value.ListFields()[0][1] for name, value in group.hparams.items()},
            next((m.value for m in group.metric_values if m.name.tag == "hp_metric"), None),
        )
        for group in groups
    }
