"""Random graphs as wirings of networks, after Xie et al. 2019, "Exploring Randomly Wired Networks".

A generator draws an undirected graph. Each edge is directed from the lower to the higher index, so
there is no cycle. One input node feeds every node without another source, and every node without
another target feeds one output node.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

# Family -> names of its parameters, in the order of `Setting.parameters`.
FAMILIES = {"ER": ("p",), "BA": ("m",), "WS": ("k", "p")}


@dataclass(frozen=True)
class Setting:
    """A random graph generator with its parameters.

    Attributes:
        family: "ER" (Erdos-Renyi: each pair of nodes is joined with probability p), "BA"
            (Barabasi-Albert: each new node is joined to m old ones), or "WS" (Watts-Strogatz: a
            ring in which each node is joined to its k nearest, k even; each edge is then moved with
            probability p).
        parameters: The values of the parameters, in the order of `FAMILIES`.
    """

    family: str
    parameters: tuple[float, ...]

    def __str__(self) -> str:
        names = FAMILIES[self.family]
        pairs = zip(names, self.parameters, strict=True)
        return f"{self.family} " + " ".join(f"{name}={value:g}" for name, value in pairs)


# Xie et al. vary p of ER from 0.1 to 0.8, m of BA from 1 to 7, k of WS from 2 to 8, its p to 1.
SETTINGS = (
    *(Setting("ER", (p,)) for p in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)),
    *(Setting("BA", (m,)) for m in (1, 2, 3, 5, 7)),
    *(Setting("WS", (k, p)) for k in (2, 4, 6) for p in (0.25, 0.75)),
    Setting("WS", (8, 0.5)),
)


def draw_graph(setting: Setting, nodes: int, seed: int) -> nx.Graph:
    """Return an undirected graph of nodes 0 to `nodes - 1`; equal seeds give equal graphs.

    The order of the nodes is that of Xie et al.: as drawn for ER, by arrival for BA, around the
    ring for WS.

    Raises:
        ValueError: If the family is unknown.
    """
    if setting.family == "ER":
        return nx.erdos_renyi_graph(nodes, setting.parameters[0], seed=seed)
    if setting.family == "BA":
        return nx.barabasi_albert_graph(nodes, int(setting.parameters[0]), seed=seed)
    if setting.family == "WS":
        neighbors, probability = setting.parameters
        return nx.connected_watts_strogatz_graph(
            nodes, int(neighbors), probability, tries=200, seed=seed
        )
    raise ValueError(
        f"There is no family {setting.family!r}; available: {', '.join(map(repr, FAMILIES))}."
    )


def wire(graph: nx.Graph) -> nx.DiGraph:
    """Return the graph as a wiring: node 0 is the input, and the last node is the output.

    Node i of `graph` is node i + 1 of the wiring, and every edge points to the higher number.
    """
    nodes = graph.number_of_nodes()
    wiring = nx.DiGraph()
    wiring.add_nodes_from(range(nodes + 2))
    wiring.add_edges_from((min(edge) + 1, max(edge) + 1) for edge in graph.edges)
    inner = range(1, nodes + 1)
    wiring.add_edges_from([(0, node) for node in inner if wiring.in_degree(node) == 0])
    wiring.add_edges_from([(node, nodes + 1) for node in inner if wiring.out_degree(node) == 0])
    return wiring
