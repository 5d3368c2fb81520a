"""The two families of byte-level language models: a decoder-only transformer and a GRU.

Both read a start symbol and the bytes before a position, and predict the byte there. So each byte
of a sequence is predicted exactly once, the first one from the start symbol alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

SYMBOLS = 256
START = SYMBOLS
_INITIAL_SCALE = 0.02  # GPT-2's


class Transformer(nn.Module):
    """A decoder-only transformer with layer norm before each part and learned positions.

    Args:
        context: Bytes in a sequence.
        depth: The number of layers.
        width: Of the residual stream; a multiple of `heads`.
        heads: The number of attention heads.
        dropout: In [0, 1), after the embedding and after each part of a layer.
    """

    def __init__(
        self, *, context: int, depth: int, width: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.bytes = nn.Embedding(SYMBOLS + 1, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(_Layer(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, SYMBOLS)
        self.apply(_initialize)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return logits of shape `(batch, context, 256)` for bytes of shape `(batch, context)`."""
        embedded = self.bytes(shift_right(sequences)) + self.positions.weight[: sequences.shape[1]]
        return self.head(self.norm(self.layers(self.dropout(embedded))))


class RecurrentNetwork(nn.Module):
    """Layers of gated recurrent units.

    Args:
        depth: The number of layers.
        width: Of the embedding and of each layer.
        dropout: In [0, 1), after the embedding and after each layer.
    """

    def __init__(self, *, depth: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.bytes = nn.Embedding(SYMBOLS + 1, width)
        self.dropout = nn.Dropout(dropout)
        between = dropout if depth > 1 else 0.0  # PyTorch warns of dropout after a single layer
        self.layers = nn.GRU(width, width, depth, batch_first=True, dropout=between)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return logits of shape `(batch, context, 256)` for bytes of shape `(batch, context)`."""
        outputs, _ = self.layers(self.dropout(self.bytes(shift_right(sequences))))
        return self.head(self.dropout(outputs))


def shift_right(sequences: Tensor) -> Tensor:
    """Return the start symbol and all but the last byte of each sequence."""
    return torch.nn.functional.pad(sequences[:, :-1], (1, 0), value=START)


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.hidden_output = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self.dropout(self._attend(self.attention_norm(stream)))
        hidden = gelu(self.hidden(self.hidden_norm(stream)))
        return stream + self.dropout(self.hidden_output(hidden))

    def _attend(self, stream: Tensor) -> Tensor:
        batch, length, width = stream.shape
        parts = self.queries_keys_values(stream).view(batch, length, 3, self.heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.attention_output(attended.transpose(1, 2).reshape(batch, length, width))


def _initialize(module: nn.Module) -> None:
    """Draw weights as GPT-2 does, without its smaller scale for the ends of residual branches."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=_INITIAL_SCALE)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
