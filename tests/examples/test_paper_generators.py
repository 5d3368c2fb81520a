from __future__ import annotations

import json
import re

import _wired_table
import networkx as nx
import numpy as np
import pytest
import torch
from _random_graphs import SETTINGS, Setting, draw_graph, wire
from _wired_networks import Cell, Recipe, WiredNetwork, load_splits, train_network
from _wired_table import build, list_jobs
from fig5_generators import (
    TABLE,
    agreement_of_halves,
    by_accuracy,
    by_sotl,
    report_epochs,
    summarize,
)
from scipy.stats import sem, spearmanr

from lightning_sotl import LearningCurves
from tests.examples.test_examples import run_example, table

NODES = 12


def edges(graph: nx.Graph) -> list[tuple[int, int]]:
    return sorted(tuple(sorted(edge)) for edge in graph.edges)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("setting", [one for one in SETTINGS if one.family != "ER"], ids=str)
def test_ba_and_ws_graphs_have_the_right_number_of_edges(setting: Setting, seed: int) -> None:
    first = int(setting.parameters[0])
    # BA: a star with m edges, then m per further node. WS: k / 2 per node.
    wanted = first * (NODES - first) if setting.family == "BA" else NODES * first // 2
    graph = draw_graph(setting, NODES, seed)
    assert (graph.number_of_nodes(), graph.number_of_edges()) == (NODES, wanted)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.4, 1.0])
def test_erdos_renyi_graphs_have_the_expected_number_of_edges(probability: float) -> None:
    setting = Setting("ER", (probability,))
    counts = [draw_graph(setting, NODES, seed).number_of_edges() for seed in range(200)]
    pairs = NODES * (NODES - 1) / 2
    error = np.sqrt(pairs * probability * (1 - probability) / 200)
    assert np.mean(counts) == pytest.approx(pairs * probability, abs=4 * error)


def test_a_watts_strogatz_graph_without_moved_edges_is_the_ring() -> None:
    ring = draw_graph(Setting("WS", (2, 0.0)), 5, 0)
    assert edges(ring) == [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equal_seeds_draw_equal_graphs_and_other_seeds_draw_others(setting: Setting) -> None:
    drawn = [edges(draw_graph(setting, NODES, seed)) for seed in (*range(8), 0)]
    assert drawn[0] == drawn[-1]
    assert len(set(map(str, drawn))) > 4


def test_an_unknown_family_is_named() -> None:
    message = "There is no family 'XY'; available: 'ER', 'BA', 'WS'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        draw_graph(Setting("XY", (1,)), NODES, 0)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_wirings_are_acyclic_with_one_input_and_one_output(setting: Setting) -> None:
    for seed in range(5):
        graph = draw_graph(setting, NODES, seed)
        wiring = wire(graph)
        assert nx.is_directed_acyclic_graph(wiring)
        assert [node for node, degree in wiring.in_degree if degree == 0] == [0]
        assert [node for node, degree in wiring.out_degree if degree == 0] == [NODES + 1]
        inner = {(a - 1, b - 1) for a, b in wiring.edges if a > 0 and b <= NODES}
        assert sorted(inner) == edges(graph)
        # A node has no source if all its neighbors have higher indices; sinks are the opposite.
        sources = sum(all(other > node for other in graph[node]) for node in graph)
        sinks = sum(all(other < node for other in graph[node]) for node in graph)
        assert wiring.number_of_edges() == graph.number_of_edges() + sources + sinks


def test_the_wiring_of_a_small_graph_is_the_one_made_by_hand() -> None:
    graph = nx.Graph()
    graph.add_nodes_from(range(4))
    graph.add_edges_from([(2, 0), (1, 2)])  # node 3 has no edge
    assert sorted(wire(graph).edges) == [(0, 1), (0, 2), (0, 4), (1, 3), (2, 3), (3, 5), (4, 5)]


def test_a_cell_computes_its_graph() -> None:
    wiring = wire(draw_graph(SETTINGS[3], NODES, 1))
    cell = Cell(wiring, 2, 2, stride=1)
    for number, node in enumerate(cell.nodes, 1):
        node.layers = torch.nn.Identity()
        torch.nn.init.constant_(node.weights, number / 10)
    values = {0: 1.0}
    for node in range(1, NODES + 1):
        sources = [values[other] for other in wiring.predecessors(node)]
        values[node] = sum(sources) / (1 + np.exp(-node / 10))
    wanted = np.mean([values[node] for node in wiring.predecessors(NODES + 1)])
    found = cell(torch.ones(1, 2, 4, 4))
    np.testing.assert_allclose(found.detach().numpy(), np.full((1, 2, 4, 4), wanted), rtol=1e-5)


def test_a_network_has_the_parameters_counted_by_hand() -> None:
    network = WiredNetwork([wire(nx.path_graph(2))] * 2, 4)
    stem = 9 * 4 + 2 * 4
    first = 2 * (1 + 9 * 4 + 4 * 4 + 2 * 4)  # weight, depthwise, pointwise, normalization
    second = (1 + 9 * 4 + 4 * 8 + 2 * 8) + (1 + 9 * 8 + 8 * 8 + 2 * 8)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == stem + first + second + (8 + 1) * 10


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_each_setting_has_a_forward_and_backward_pass_through_all_weights(
    setting: Setting,
) -> None:
    wirings = [wire(draw_graph(setting, NODES, seed)) for seed in (0, 1)]
    network = WiredNetwork(wirings, 4)
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert network.features(images).shape == (3, 8, 4, 4)
    logits = network(images)
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_splits_have_no_image_in_common() -> None:
    splits = load_splits(300)
    assert [len(split) for split in splits] == [300, 374, 1123]
    images = torch.cat([split.tensors[0] for split in splits]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 1797


def test_training_depends_only_on_its_seed() -> None:
    recipe = Recipe(nodes=3, cells=1, images=40, epochs=2)
    first, again, other = (train_network(SETTINGS[0], recipe, seed) for seed in (1, 1, 2))
    for name in ("train_loss", "val_loss", "val_metric"):
        assert len(first[name]) == 2
        assert first[name] == again[name]
    assert first["train_loss"] != other["train_loss"]
    assert first["final_metric"] == again["final_metric"]


@pytest.fixture
def trained(monkeypatch) -> list[int]:
    """Replace training by rows that contain the seed, and return the list of trained seeds."""
    seeds: list[int] = []

    def train(setting: Setting, recipe: Recipe, seed: int) -> dict[str, object]:
        seeds.append(seed)
        curves = {name: [float(seed)] * 2 for name in _wired_table.CURVES}
        row = dict.fromkeys(("final_metric", "final_loss"), float(seed))
        return {**curves, **row, "features": [1, 2, 3]}

    monkeypatch.setattr(_wired_table, "train_network", train)
    monkeypatch.setattr(_wired_table, "prepare", lambda: None)
    return seeds


def test_after_a_kill_only_the_missing_networks_are_trained(tmp_path, trained) -> None:
    jobs, kept = list_jobs(SETTINGS[:2], 2, seed=5), tmp_path / "kept.jsonl"
    wanted = [job.seed for job in jobs]
    assert len(set(wanted)) == 4
    whole = build(jobs, Recipe(), kept, workers=1)
    assert trained == wanted
    assert whole.names == ("ER p=0.1/0", "ER p=0.1/1", "ER p=0.2/0", "ER p=0.2/1")
    text = kept.read_text()
    kept.write_text(text[:-20])  # the kill came while the last network was written
    again = build(jobs, Recipe(), kept, workers=1)
    assert trained == [*wanted, wanted[-1]]
    assert kept.read_text() == text
    np.testing.assert_array_equal(again.final_metric, wanted)
    np.testing.assert_array_equal(again.train_loss, whole.train_loss)


def test_networks_of_another_seed_are_trained(tmp_path, trained) -> None:
    kept = tmp_path / "kept.jsonl"
    build(list_jobs(SETTINGS[:2], 1, seed=5), Recipe(), kept, workers=1)
    trained.clear()
    jobs = list_jobs(SETTINGS[:2], 1, seed=6)
    found = build(jobs, Recipe(), kept, workers=1)
    assert trained == [job.seed for job in jobs] == found.final_metric.tolist()


def test_networks_of_another_recipe_are_refused(tmp_path, trained) -> None:
    kept, jobs = tmp_path / "kept.jsonl", list_jobs(SETTINGS[:1], 1, seed=5)
    build(jobs, Recipe(), kept, workers=1)
    message = "kept.jsonl has another recipe; delete it, or use another folder."
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        build(jobs, Recipe(epochs=7), kept, workers=1)


def small_table() -> LearningCurves:
    """Return three settings of two networks; at T = 1 SoTL-E picks the second best."""
    losses = [[2.0, 0.1], [2.2, 0.3], [1.0, 0.4], [1.2, 0.6], [3.0, 0.9], [3.2, 1.1]]
    return LearningCurves(
        losses,
        val_metric=[[0.1, 0.9], [0.1, 0.9], [0.2, 0.8], [0.2, 0.8], [0.3, 0.7], [0.3, 0.7]],
        final_metric=[0.9, 0.92, 0.8, 0.82, 0.7, 0.72],
        run_ids=[f"{name}/{sample}" for name in ("a p=1", "b", "c") for sample in (0, 1)],
    )


def test_the_sentence_has_the_correlations_and_the_pick_made_by_hand() -> None:
    curves = small_table()
    choice = by_sotl(curves, 1)
    assert (choice.pick.key, choice.place) == ("b", 2)
    assert choice.selection.correlation == pytest.approx(0.5)
    assert by_sotl(curves, 2).selection.correlation == 1.0
    assert by_accuracy(curves, 1).selection.correlation == -1.0
    assert by_accuracy(curves, 2).selection.correlation == 1.0
    assert agreement_of_halves(curves) == 1.0
    sentence = summarize(curves, [1, 2])
    assert "Over 3 settings of 2 networks, " in sentence
    assert "picks b with 81.00%, number 2 of 3, and the best, a p=1, has 91.00%" in sentence


def group_means(curves: LearningCurves, values: np.ndarray) -> np.ndarray:
    groups = np.array([name.split("/")[0] for name in curves.names])
    return np.array([values[groups == name].mean() for name in dict.fromkeys(groups)])


def test_the_committed_table_is_that_of_its_recipe() -> None:
    curves, facts = LearningCurves.load(TABLE), json.loads(TABLE.with_suffix(".json").read_text())
    assert facts["recipe"] == json.loads(json.dumps(Recipe().__dict__))
    assert curves.names == tuple(job.run_id for job in list_jobs(SETTINGS, 4, seed=0))
    assert (curves.runs, curves.epochs) == (facts["runs"], facts["recipe"]["epochs"]) == (72, 30)
    assert np.isfinite(curves.train_loss).all()
    for at in report_epochs(curves.epochs):
        means = group_means(curves, curves.train_loss[:, at - 1])
        tests = group_means(curves, curves.final_metric)
        wanted = -spearmanr(means, tests).statistic
        assert by_sotl(curves, at).selection.correlation == pytest.approx(wanted)


@pytest.mark.slow
def test_the_example_trains_a_small_table_and_prints_its_means(tmp_path) -> None:
    lines = run_example("paper/fig5_generators", tmp_path)
    curves = LearningCurves.load(tmp_path / TABLE.name)
    assert (curves.runs, curves.epochs) == (6, 2)
    rows = {
        line[6:20].strip(): line[20:].split() for line in lines if re.match(" +[1-3]  [A-Z]", line)
    }
    for first in (0, 2, 4):
        setting = curves.names[first].split("/")[0]
        pair = curves.final_metric[first : first + 2]
        assert rows[setting][:4] == [
            "2",
            f"{100 * pair.mean():.2f}",
            "+-",
            f"{100 * sem(pair):.2f}",
        ]
        assert rows[setting][4] == f"{curves.train_loss[first : first + 2, 0].mean():.3f}"
    assert [row[0] for row in table(lines)] == ["1", "2", "3", "1", "2"]
    assert lines[-1].startswith("Over 3 settings of 2 networks, the mean SoTL-E has ")
    assert json.loads((tmp_path / "fig5_generators.json").read_text())["runs"] == 6
    assert not list(tmp_path.glob("*.jsonl"))
