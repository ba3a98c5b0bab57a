"""Where the nodes of a graph in columns go, so that few of its edges cross.

In: nodes with their heights, in columns, and edges between neighbouring columns. Out:
for each node a height, and for each edge those of its ends. In the manner of Sugiyama,
Tagawa and Toda (1981): first the order within the columns, by barycentres, then the
heights, as near to those of the neighbours as what is above and below allows.
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

ORDER_SWEEPS = 8
HEIGHT_SWEEPS, LEVEL_SWEEPS = 30, 10
STRAIGHT = 4.0
"""How much more an edge between points counts than one at a box, to be level."""
SMALL = 9.0
"""A step of an edge that looks like a mistake."""

Edge = tuple[int, int]
Chain = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """What a node takes above and below its height.

    `pitch` is the distance between the ends of edges on one side of it; 0 where all
    of them meet in one point. `link` is what it takes to its neighbour in a chain.
    """

    above: float
    below: float
    pitch: float = 0.0
    link: float = 0.0


@dataclass(frozen=True)
class Placement:
    """The heights, downwards: the middle of each node, and of each edge both ends."""

    nodes: tuple[float, ...]
    edges: dict[Edge, tuple[float, float]]


def place(
    nodes: Sequence[Node], columns: Sequence[Sequence[Chain]], edges: Sequence[Edge]
) -> Placement:
    """Places nodes by number; those of a chain stay neighbours, in this order or the
    reverse. The edges go from one column to the next.

    >>> square = [((0,), (1,)), ((2,), (3,))]
    >>> placed = place([Node(1, 1)] * 4, square, [(0, 3), (1, 2)])
    >>> placed.nodes[0] == placed.nodes[3], placed.nodes[1] == placed.nodes[2]
    (True, True)
    """
    graph = _Graph(nodes, columns, edges)
    graph.find_order()
    graph.find_heights()
    graph.straighten()
    ends = {
        (left, right): (
            graph.heights[left] + graph.port(left, right),
            graph.heights[right] + graph.port(right, left),
        )
        for left, right in edges
    }
    return Placement(tuple(graph.heights), ends)


class _Graph:
    def __init__(
        self,
        nodes: Sequence[Node],
        columns: Sequence[Sequence[Chain]],
        edges: Sequence[Edge],
    ) -> None:
        self.nodes, self.edges = nodes, edges
        self.columns = [list(column) for column in columns]
        # The neighbours of each node on its left and on its right.
        self.sides: tuple[list[list[int]], list[list[int]]] = (
            [[] for _ in nodes],
            [[] for _ in nodes],
        )
        for left, right in edges:
            self.sides[1][left].append(right)
            self.sides[0][right].append(left)
        self.place_of: dict[int, int] = {}
        for column in range(len(self.columns)):
            self._number(column)
        self.heights = [0.0] * len(nodes)
        self._ports: dict[Edge, float] = {}

    def _number(self, column: int) -> None:
        for place, node in enumerate(self.flat(column)):
            self.place_of[node] = place

    def flat(self, column: int) -> list[int]:
        return [node for chain in self.columns[column] for node in chain]

    # The order within the columns

    def find_order(self) -> None:
        """The one with the fewest crossings of those that the sweeps come by."""
        best, fewest = self._copy(), self.crossings()
        there = range(len(self.columns))
        for _ in range(ORDER_SWEEPS):
            for side, sweep in ((0, there), (1, there[::-1])):
                for column in sweep:
                    self._sort(column, side)
                self._exchange()
                if self.crossings() < fewest:
                    best, fewest = self._copy(), self.crossings()
        self.columns = best
        for column in there:
            self._number(column)

    def _copy(self) -> list[list[Chain]]:
        return [list(column) for column in self.columns]

    def crossings(self) -> int:
        """How often edges cross."""
        total = 0
        for column in range(len(self.columns) - 1):
            seen: list[int] = []
            for node in self.flat(column):
                ends = sorted(self.place_of[other] for other in self.sides[1][node])
                total += sum(len(seen) - bisect(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def _sort(self, column: int, side: int) -> None:
        """By the mean place of the neighbours on one side."""
        beside = column + (1 if side else -1)
        if not 0 <= beside < len(self.columns):
            return
        here, there = len(self.flat(column)), len(self.flat(beside))

        def centre(node: int) -> float:
            found = [(self.place_of[n] + 0.5) / there for n in self.sides[side][node]]
            if not found:
                return (self.place_of[node] + 0.5) / here
            return sum(found) / len(found)

        chains = [
            chain if centre(chain[0]) <= centre(chain[-1]) else chain[::-1]
            for chain in self.columns[column]
        ]
        chains.sort(key=lambda chain: sum(map(centre, chain)) / len(chain))
        self.columns[column] = chains
        self._number(column)

    def _exchange(self) -> None:
        """Neighbours in a column change places wherever that takes crossings away."""
        changed = True
        while changed:
            changed = False
            for column, chains in enumerate(self.columns):
                for i in range(len(chains) - 1):
                    upper, lower = chains[i], chains[i + 1]
                    if self._between(upper, lower) > self._between(lower, upper):
                        chains[i], chains[i + 1] = lower, upper
                        self._number(column)
                        changed = True

    def _between(self, upper: Chain, lower: Chain) -> int:
        """The crossings of the edges of two chains, one above the other."""
        return sum(
            self.place_of[a] > self.place_of[b]
            for side in self.sides
            for u in upper
            for v in lower
            for a in side[u]
            for b in side[v]
        )

    # The heights

    def port(self, node: int, other: int) -> float:
        """Where the edge to `other` ends, from the middle of `node`."""
        side = next(side[node] for side in self.sides if other in side[node])
        place = sum(self.place_of[n] < self.place_of[other] for n in side)
        return (place - (len(side) - 1) / 2) * self.nodes[node].pitch

    def find_heights(self) -> None:
        """Once the order is found."""
        self._ports = {
            (node, other): self.port(node, other)
            for side in self.sides
            for node, others in enumerate(side)
            for other in others
        }
        for column in range(len(self.columns)):
            flat = self.flat(column)
            self._set(flat, [0.0] * len(flat), [1.0] * len(flat), column)
        there = range(len(self.columns))
        for sweep in range(HEIGHT_SWEEPS + LEVEL_SWEEPS):
            for column in (*there, *there[::-1]):
                flat = self.flat(column)
                wishes = [self._wish(node, sweep >= HEIGHT_SWEEPS) for node in flat]
                heights = [height for height, _ in wishes]
                self._set(flat, heights, [weight for _, weight in wishes], column)

    def _wish(self, node: int, level: bool) -> tuple[float, float]:
        """The height that a node wants, and how much: in the mean where its edges are
        level.

        In the end some edges are to be level, and not all nearly so: those in the
        middle, and for a point on a line the one that has fewer beside it.
        """
        wishes = []
        for side, back in (self.sides, self.sides[::-1]):
            for other in side[node]:
                end = self.heights[other] + self._ports[other, node]
                points = not self.nodes[node].pitch and not self.nodes[other].pitch
                weight = STRAIGHT if points else 1.0
                wishes.append(
                    (len(back[other]), end - self._ports[node, other], weight)
                )
        if not wishes:
            return self.heights[node], 0.01
        total = sum(weight for _, _, weight in wishes)
        if not level:
            return sum(height * weight for _, height, weight in wishes) / total, total
        if len(wishes) == 2 and not self.nodes[node].pitch:
            return min(wishes)[1], total
        return median(height for _, height, _ in wishes), total

    def _set(
        self,
        flat: Sequence[int],
        wanted: Sequence[float],
        weights: Sequence[float],
        column: int,
    ) -> None:
        heights = spaced(wanted, weights, self._gaps(column))
        for node, height in zip(flat, heights, strict=True):
            self.heights[node] = height

    def _gaps(self, column: int) -> list[float]:
        """How far each node of a column and the next one are from each other at least."""
        linked = {pair for chain in self.columns[column] for pair in pairwise(chain)}
        return [
            self.nodes[a].below
            + self.nodes[b].above
            + (self.nodes[a].link if (a, b) in linked else 0)
            for a, b in pairwise(self.flat(column))
        ]

    def straighten(self) -> None:
        """Takes the small steps out of edges, wherever there is room for it.

        Nodes whose edges are level move as one: `group` has those with each.
        """
        columns = [(self.flat(c), self._gaps(c)) for c in range(len(self.columns))]

        def fits() -> bool:
            return all(
                self.heights[lower] - self.heights[upper] > gap - 1e-6
                for flat, gaps in columns
                for (upper, lower), gap in zip(pairwise(flat), gaps, strict=True)
            )

        def step(edge: Edge) -> float:
            left, right = edge
            start = self.heights[left] + self._ports[left, right]
            return self.heights[right] + self._ports[right, left] - start

        group = {node: [node] for node in range(len(self.nodes))}
        for edge in sorted(self.edges, key=lambda edge: (abs(step(edge)), edge)):
            one, other = group[edge[0]], group[edge[1]]
            if one is other or abs(step(edge)) > SMALL:
                continue
            before, by = list(self.heights), step(edge)
            for moved, way in ((one, by), (other, -by)):
                for node in moved:
                    self.heights[node] += way
                if fits():
                    joined = one + other
                    group.update((node, joined) for node in joined)
                    break
                self.heights = list(before)


def spaced(
    wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]
) -> list[float]:
    """Heights as near to those wanted, by weighted squares, as the gaps allow.

    Isotonic regression: those that are too near to each other move as one.

    >>> spaced([0, 0, 9], [1, 1, 1], [2, 2])
    [-1.0, 1.0, 9.0]
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    blocks: list[tuple[float, float, int]] = []
    for height, weight, offset in zip(wanted, weights, offsets, strict=False):
        mean, total, count = float(height - offset), float(weight), 1
        while blocks and blocks[-1][0] > mean:
            other, heavy, many = blocks.pop()
            mean = (mean * total + other * heavy) / (total + heavy)
            total, count = total + heavy, count + many
        blocks.append((mean, total, count))
    levels = [mean for mean, _, count in blocks for _ in range(count)]
    return [level + offset for level, offset in zip(levels, offsets, strict=False)]
