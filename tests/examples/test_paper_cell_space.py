from __future__ import annotations

import itertools
import math
import re

import cell_network
import numpy as np
import pytest
import torch
from cell_equivalence import canonical_form, distinct_connected_cells
from cell_network import CellModule, CellNetwork, count_parameters
from cell_space import (
    CELLS,
    EDGES,
    OPERATIONS,
    all_cells,
    cell_at,
    cell_index,
    format_cell,
    is_connected,
    live_edges,
    parse_cell,
)

NONE, SKIP, CONV1, CONV3, POOL = OPERATIONS


def reached_by_matrix_powers(cell: tuple[str, ...]) -> bool:
    """Return whether a walk of three edges or fewer leads from the input to the output."""
    step = np.eye(4, dtype=int)
    for (source, target), operation in zip(EDGES, cell, strict=True):
        step[source, target] = operation != NONE
    return bool(np.linalg.matrix_power(step, 3)[0, 3])


def test_every_cell_is_restored_from_its_index_and_its_text():
    cells = list(all_cells())
    assert len(set(cells)) == len(cells) == CELLS == 5**6
    assert [cell_index(cell) for cell in cells] == list(range(CELLS))
    assert [cell_at(index) for index in range(CELLS)] == cells
    assert [parse_cell(format_cell(cell)) for cell in cells] == cells


def test_the_text_of_a_cell_is_in_the_benchmarks_notation():
    # An architecture string from NAS-Bench-201's documentation.
    text = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|"
    text += "skip_connect~2|"
    assert parse_cell(text) == (CONV3, CONV3, POOL, SKIP, CONV3, SKIP)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~1|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|dil_conv~2|",
        "|none~0|none~0|none~1|none~0|none~1|none~2|",
    ],
)
def test_a_text_that_is_no_cell_is_refused(text):
    message = (
        "Expected a cell like '|op~0|+|op~0|op~1|+|op~0|op~1|op~2|', each op one of none, "
        f"skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3, but got '{text}'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_cell(text)


@pytest.mark.parametrize("index", [-1, CELLS])
def test_an_index_outside_the_space_is_refused(index):
    message = f"Expected `index` to be in [0, 15625) but got {index}."
    with pytest.raises(IndexError, match=f"^{re.escape(message)}$"):
        cell_at(index)


def test_connectivity_agrees_with_powers_of_the_adjacency_matrix():
    connected = [is_connected(cell) for cell in all_cells()]
    assert connected == [reached_by_matrix_powers(cell) for cell in all_cells()]
    # By inclusion-exclusion over the paths 0-3, 0-1-3, 0-2-3 and 0-1-2-3.
    assert connected.count(False) == 341


@pytest.mark.slow
def test_only_disconnected_cells_ignore_the_image_and_equal_forms_have_equal_outputs(
    monkeypatch,
):
    # Every cell is built and run, from one operation of each kind, because drawing weights would
    # take longer than all the rest.
    operation = cell_network._operation
    made = {name: operation(name, 1).eval() for name in OPERATIONS if name != NONE}
    monkeypatch.setattr(cell_network, "_operation", lambda name, channels: made[name])
    images = torch.rand(2, 1, 3, 3) + torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    outputs: dict[str, list[float]] = {}
    with torch.inference_mode():
        for name in (CONV1, CONV3):  # positive, so that ReLU does not hide an input
            for parameter in made[name].parameters():
                parameter.abs_()
        for cell in all_cells():
            output = CellModule(cell, 1)(images)
            assert output.shape == images.shape
            first, second = output.flatten(1).tolist()
            assert all(map(math.isfinite, first + second))
            assert (first != second) == is_connected(cell), format_cell(cell)
            same = outputs.setdefault(canonical_form(cell), first)
            assert first == pytest.approx(same, rel=1e-5), format_cell(cell)


def by_definition(cell: tuple[str, ...], module: CellModule, images: torch.Tensor) -> torch.Tensor:
    """Compute a cell node by node from its parameters, without its own code."""
    nodes = [images, *(torch.zeros_like(images) for _ in range(3))]
    built = iter(module.operations)
    for position, (source, target) in enumerate(EDGES):
        if position not in live_edges(cell):
            continue
        given, operation = nodes[source], next(built)
        if cell[position] == POOL:
            total = torch.nn.functional.conv2d(given, torch.ones(1, 1, 3, 3), padding=1)
            number = torch.nn.functional.conv2d(
                torch.ones_like(given), torch.ones(1, 1, 3, 3), padding=1
            )
            given = total / number
        elif cell[position] != SKIP:
            size = 1 if cell[position] == CONV1 else 3
            weight = next(operation.parameters())
            assert weight.shape == (1, 1, size, size)
            made = torch.nn.functional.conv2d(given.clamp(min=0), weight, padding=size // 2)
            mean, variance = made.mean(), made.var(correction=0)
            given = (made - mean) / (variance + 1e-5).sqrt()
        nodes[target] = nodes[target] + given
    return nodes[3]


@pytest.mark.parametrize("seed", range(20))
def test_a_cell_computes_what_the_benchmark_defines(seed):
    generator = np.random.default_rng(seed)
    cell = cell_at(int(generator.integers(CELLS)))
    torch.manual_seed(seed)
    module = CellModule(cell, 1)
    images = torch.randn(3, 1, 4, 4)
    torch.testing.assert_close(module(images), by_definition(cell, module, images))


def test_the_network_returns_ten_logits_for_every_kind_of_skeleton():
    cell = (CONV3, SKIP, POOL, NONE, CONV1, SKIP)
    for stages, cells in itertools.product((1, 2, 3), (1, 2)):
        network = CellNetwork(cell, channels=3, stages=stages, cells=cells, dropout=0.1)
        assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_a_disconnected_network_returns_the_same_logits_for_every_image():
    network = CellNetwork((CONV3, CONV1, NONE, NONE, NONE, NONE), channels=2, stages=2)
    logits = network(torch.rand(5, 1, 8, 8))
    torch.testing.assert_close(logits, logits[:1].expand(5, 10))


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        # Skeleton with 4 and 8 channels: stem 9*4 + 2*4; reduction 9*4*8 + 2*8, 9*8*8 + 2*8 and the
        # shortcut's 4*8; last batch norm 2*8; linear 8*10 + 10. The sum is 1078.
        ((SKIP, SKIP, SKIP, SKIP, SKIP, SKIP), 1078),
        # A 1x1 convolution is c*c + 2*c: 24 and 80.
        ((NONE, NONE, NONE, CONV1, NONE, NONE), 1078 + 24 + 80),
        # Six 3x3 convolutions of 9*c*c + 2*c: 152 and 592.
        ((CONV3,) * 6, 1078 + 6 * (152 + 592)),
        # The convolution into node 1 leads nowhere, and is not built.
        ((CONV3, NONE, NONE, POOL, NONE, CONV1), 1078),
    ],
    ids=["skips", "one 1x1", "six 3x3", "dead ends"],
)
def test_parameters_are_those_counted_by_hand(cell, expected):
    assert count_parameters(CellNetwork(cell, channels=4, stages=2)) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Nodes 1 and 2 are swapped.
        ((CONV3, CONV1, NONE, NONE, SKIP, POOL), (CONV1, CONV3, NONE, NONE, POOL, SKIP)),
        # A skip connection is the identity at any position.
        ((SKIP, NONE, CONV1, NONE, NONE, SKIP), (CONV1, NONE, NONE, NONE, SKIP, NONE)),
        # A convolution leads into a dead end.
        ((CONV3, NONE, NONE, SKIP, NONE, NONE), (NONE, NONE, CONV1, SKIP, NONE, NONE)),
        # The average of a sum is the sum of the averages.
        ((POOL, CONV1, NONE, NONE, POOL, POOL), (POOL, CONV1, SKIP, NONE, NONE, POOL)),
    ],
)
def test_equivalent_cells_have_one_form(one, other):
    assert canonical_form(one) == canonical_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # One convolution that counts twice, and two convolutions.
        ((CONV1, NONE, SKIP, NONE, SKIP, SKIP), (CONV1, CONV1, NONE, NONE, SKIP, SKIP)),
        # A convolution of a sum, and a sum of convolutions.
        ((SKIP, CONV3, SKIP, NONE, NONE, CONV1), (SKIP, CONV3, NONE, NONE, CONV1, CONV1)),
        ((SKIP, NONE, NONE, SKIP, SKIP, NONE), (NONE, NONE, NONE, SKIP, NONE, NONE)),
    ],
)
def test_different_networks_have_different_forms(one, other):
    assert canonical_form(one) != canonical_form(other)


def test_a_sample_has_connected_cells_without_equal_forms_and_a_longer_one_extends_it():
    sample = distinct_connected_cells(3, 200)
    cells = [cell_at(index) for index in sample]
    assert len({canonical_form(cell) for cell in cells}) == 200
    assert all(map(is_connected, cells))
    assert distinct_connected_cells(3, 250)[:200] == sample
    assert distinct_connected_cells(4, 200) != sample


def test_a_sample_larger_than_the_space_is_refused():
    message = "Expected `count` to be at most 5043 but got 6000."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        distinct_connected_cells(0, 6000)
