"""The network around a cell: a small version of NAS-Bench-201's macro skeleton.

The network has a stem, then stages of cells, then batch norm, ReLU, global average pooling and a
linear layer. A residual block between two stages halves the image and doubles the channels. As in
the benchmark, each convolution of a cell is ReLU, convolution and batch norm, in this order.

Unlike in the benchmark, edges on no path from input to output are not built. They would cost time
and count as parameters, but not change what the network can learn.
"""

from __future__ import annotations

import torch
from cell_space import EDGES, NODES, Cell, live_edges
from torch import Tensor, nn

CLASSES = 10


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, and batch norm; stride 1 keeps the image size."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


class CellModule(nn.Module):
    """A cell of the space; input and output have shape `(images, channels, height, width)`."""

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges = tuple(EDGES[position] for position in live_edges(cell))
        self.operations = nn.ModuleList(
            _operation(cell[position], channels) for position in live_edges(cell)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the value of the output node; zeros for a disconnected cell."""
        nodes: list[Tensor | None] = [images] + [None] * (NODES - 1)
        for (source, target), operation in zip(self.edges, self.operations, strict=True):
            result, total = operation(nodes[source]), nodes[target]
            nodes[target] = result if total is None else total + result
        output = nodes[-1]
        return torch.zeros_like(images) if output is None else output


class ReductionBlock(nn.Module):
    """A residual block that halves the image and doubles the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            ReLUConvBN(channels, 2 * channels, 3, stride=2),
            ReLUConvBN(2 * channels, 2 * channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the reduced images; their height and width must be even."""
        reduced: Tensor = self.convolutions(images) + self.shortcut(images)
        return reduced


class CellNetwork(nn.Sequential):
    """A network from gray images to the logits of ten classes.

    Args:
        cell: One operation per edge.
        channels: Channels of the first stage, at least 1.
        stages: Number of stages, at least 1. The image size must be divisible by 2 ** (stages - 1).
        cells: Number of cells per stage, at least 1.
        dropout: Share of the linear layer's inputs to drop in training, in [0, 1).
    """

    def __init__(
        self, cell: Cell, *, channels: int, stages: int = 3, cells: int = 1, dropout: float = 0.0
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        for stage in range(stages):
            if stage:
                layers.append(ReductionBlock(channels))
                channels *= 2
            layers += [CellModule(cell, channels) for _ in range(cells)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(channels, CLASSES))


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, with batch norm's scale and shift."""
    return sum(parameter.numel() for parameter in network.parameters())


def _operation(name: str, channels: int) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return ReLUConvBN(channels, channels, 1 if name == "nor_conv_1x1" else 3)
