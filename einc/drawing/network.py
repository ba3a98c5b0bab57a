"""A term's tensor network as a picture: x at the left, y at the right.

An index is a node as a tensor is, with a place of its own between the columns of
tensors: a label on a line where it joins two tensors, a dot with lines to each where
it joins more. So texts keep clear of each other, and of lines, whatever the term.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

from einc.drawing.columns import Columns
from einc.drawing.labels import Labels, wrapped
from einc.drawing.layered import Chain, Edge, Node, place
from einc.drawing.picture import Box, Dot, Font, Line, Mark, Picture, Words, width_of
from einc.structure import Axis, Term

NAME, SHAPE, NOTE, LABEL = Font(9, bold=True), Font(8), Font(7), Font(8)
WRAP = 18
"""The characters of a line of a shape."""
PAD, DOT, LINK = 5.0, 2.2, 18.0
ABOVE, BELOW = LABEL.height + 2, DOT + 2
PITCH = ABOVE + BELOW
"""What an index takes above its line and below it: as much as a line to a box does."""
APART, CLEAR = 4.0, 4.0
"""What is left free around a box, and around a line that passes."""
ASIDE = 3.0
"""How far two upright lines are from their middle, and a label from its line."""
NEAREST, FARTHEST, SLOPE = 12.0, 50.0, 0.3
"""How wide it is between two columns, by how far up or down the lines there go."""

Point = tuple[float, float]


def drawn_network(labels: Labels, term: Term) -> Picture:
    """The network of one term; indices in none but one tensor are loose ends."""
    return _Drawing(labels, Columns(term)).picture()


class _Drawing:
    """Layers 0, 2, 4, ... hold the columns of tensors, those between them indices; and
    each also the points where lines pass to farther ones."""

    def __init__(self, labels: Labels, graph: Columns) -> None:
        self.labels, self.graph = labels, graph
        self.nodes: list[Node] = []
        self.layer_of: list[int] = []
        self.layers: list[list[Chain]] = [[] for _ in range(2 * len(graph.columns) - 1)]
        self.edges: dict[Edge, None] = {}
        self.index_of: dict[Axis, int] = {}
        # For each index the nodes from it to each tensor, both included.
        self.routes: dict[Axis, list[list[int]]] = {}
        self.texts = [self._text(tensor) for tensor in range(len(graph.tensors))]
        self.sizes = [self._size(tensor) for tensor in range(len(graph.tensors))]
        self._add_tensors()
        for axis, gap in graph.gap_of.items():
            self._add_index(axis, 2 * gap + 1)
        self.placed = place(self.nodes, self.layers, list(self.edges))
        self.widths = [self._width(layer) for layer in range(len(self.layers))]
        ramps = [self._ramp(layer) for layer in range(1, len(self.layers))]
        steps = zip(self.widths, [*ramps, 0.0], strict=True)
        self.starts = list(accumulate((w + r for w, r in steps), initial=0.0))

    # What is there

    def _text(self, tensor: int) -> list[tuple[str, Font]]:
        """The lines in the box of a tensor."""
        name = self.graph.names[tensor]
        shape = wrapped(self.labels.shape(self.graph.tensors[tensor]), WRAP)
        notes = self.labels.notes(name)
        return [
            (self.labels.name(name), NAME),
            *((line, SHAPE) for line in shape),
            *([(notes, NOTE)] if notes else []),
        ]

    def _size(self, tensor: int) -> Point:
        """The width and the height of its box, as high as its lines need."""
        text, here = self.texts[tensor], self.graph.column_of[tensor]
        gaps = [self.graph.gap_of.get(axis) for axis in self.graph.tensors[tensor]]
        right = sum(gap is not None and gap >= here for gap in gaps)
        left = sum(gap is not None and gap < here for gap in gaps)
        width = max(width_of(line, font) for line, font in text) + 2 * PAD
        height = sum(font.height for _, font in text) + 4
        return width, max(height, PITCH * max(left, right))

    def _add(self, layer: int, node: Node) -> int:
        self.nodes.append(node)
        self.layer_of.append(layer)
        return len(self.nodes) - 1

    def _add_tensors(self) -> None:
        """So that a tensor's node has its number."""
        for column, (_, height) in zip(self.graph.column_of, self.sizes, strict=True):
            self._add(
                2 * column, Node(height / 2 + APART, height / 2 + APART, PITCH, LINK)
            )
        for column, chains in enumerate(self.graph.columns):
            self.layers[2 * column] += chains

    def _add_index(self, axis: Axis, layer: int) -> None:
        """Lines to several tensors run as one as far as they can."""
        index = self._add(layer, Node(ABOVE, BELOW))
        self.index_of[axis] = index
        on_the_way = {layer: index}
        self.routes[axis] = []
        for tensor in self.graph.holders[axis]:
            target = self.layer_of[tensor]
            step = 1 if target > layer else -1
            between = range(layer, target, step)
            for passed in between[1:]:
                if passed not in on_the_way:
                    on_the_way[passed] = self._add(passed, Node(CLEAR, CLEAR))
            route = [*(on_the_way[passed] for passed in between), tensor]
            self.routes[axis].append(route)
            for a, b in pairwise(route):
                self.edges[(a, b) if step > 0 else (b, a)] = None
        for passed, node in on_the_way.items():
            self.layers[passed].append((node,))

    def _has_dot(self, axis: Axis) -> bool:
        return len(self.graph.holders[axis]) > 2

    # Where it is

    def _width(self, layer: int) -> float:
        if layer % 2 == 0:
            tensors = [t for chain in self.graph.columns[layer // 2] for t in chain]
            return max(
                [self.sizes[t][0] for t in tensors] + self._upright_widths(layer)
            )
        return max(
            (
                width_of(self.labels.index(axis), LABEL) + 2 * PAD
                for axis, index in self.index_of.items()
                if self.layer_of[index] == layer
            ),
            default=0.0,
        )

    def _upright_widths(self, layer: int) -> list[float]:
        """What upright lines need with labels beside them, their middle in the middle."""
        return [
            2 * (width_of(self.labels.index(axis), LABEL) + 2 * ASIDE)
            for pair in self.graph.links
            for axis in self.graph.shared(*pair)
            if self.layer_of[pair[0]] == layer
        ]

    def _ramp(self, layer: int) -> float:
        """The width between a layer and the one before it."""
        rises = [
            abs(left - right)
            for (_, node), (left, right) in self.placed.edges.items()
            if self.layer_of[node] == layer
        ]
        return min(NEAREST + SLOPE * max(rises, default=0.0), FARTHEST)

    def _middle(self, node: int) -> Point:
        layer = self.layer_of[node]
        return self.starts[layer] + self.widths[layer] / 2, self.placed.nodes[node]

    def _path(self, route: list[int]) -> list[Point]:
        """From an index to a tensor: level in layers, and up or down between them."""
        points = [self._middle(route[0])]
        for a, b in pairwise(route):
            right = self.layer_of[b] > self.layer_of[a]
            ends = self.placed.edges[(a, b) if right else (b, a)]
            there = ends if right else ends[::-1]
            for node, y, leaves in ((a, there[0], right), (b, there[1], not right)):
                layer = self.layer_of[node]
                points.append((self.starts[layer] + leaves * self.widths[layer], y))
        x, _ = self._middle(route[-1])
        half = self.sizes[route[-1]][0] / 2
        points.append((x + (half if points[-1][0] > x else -half), points[-1][1]))
        return points

    # How it looks

    def picture(self) -> Picture:
        marks: list[Mark] = []
        for axis in self.graph.axes:
            marks += self._index(axis) if axis in self.index_of else []
        for pair in self.graph.links:
            marks += self._upright(*pair)
        for tensor in range(len(self.graph.tensors)):
            marks += self._box(tensor)
        nodes = list(zip(self.nodes, self.placed.nodes, strict=True))
        top = min(y - node.above for node, y in nodes)
        bottom = max(y + node.below for node, y in nodes)
        picture = Picture(self.starts[-1], bottom - top, tuple(marks))
        return Picture(picture.width, picture.height, picture.moved(0, -top))

    def _is_routed(self, axis: Axis) -> bool:
        return axis.name == self.labels.structure.routed

    def _index(self, axis: Axis) -> list[Mark]:
        x, y = self._middle(self.index_of[axis])
        text, dashed = self.labels.index(axis), self._is_routed(axis)
        raised = y - LABEL.height / 2 - 0.5
        marks: list[Mark] = [Words(x, raised, text, LABEL, "center")]
        paths = [self._path(route) for route in self.routes[axis]]
        if self._has_dot(axis):
            marks += [Line(tuple(path), dashed) for path in paths]
            marks.append(Dot(x, y, DOT))
        elif len(paths) == 2:
            marks.append(Line((*paths[0][::-1], *paths[1][1:]), dashed))
        else:
            end = x + width_of(text, LABEL) / 2 * (1 if paths[0][-1][0] < x else -1)
            marks.append(Line(((end, y), *paths[0][1:]), dashed))
            marks.append(Line(((end, y - 2.5), (end, y + 2.5))))
        return marks

    def _upright(self, upper: int, lower: int) -> list[Mark]:
        """The lines between two neighbours in a column, labelled at their outer sides."""
        x, y = self._middle(upper)
        _, y1 = self._middle(lower)
        if y > y1:
            upper, lower, y, y1 = lower, upper, y1, y
        start, end = y + self.sizes[upper][1] / 2, y1 - self.sizes[lower][1] / 2
        marks: list[Mark] = []
        shared = self.graph.shared(upper, lower)
        for number, axis in enumerate(shared):
            side = 0 if len(shared) == 1 else 2 * number - 1
            line = x + side * ASIDE
            text = self.labels.index(axis)
            marks.append(Line(((line, start), (line, end)), self._is_routed(axis)))
            middle = (start + end) / 2
            if side < 0:
                marks.append(Words(line - ASIDE, middle, text, LABEL, "right"))
            else:
                marks.append(Words(line + ASIDE, middle, text, LABEL))
        return marks

    def _box(self, tensor: int) -> list[Mark]:
        x, y = self._middle(tensor)
        width, height = self.sizes[tensor]
        is_data = tensor in (0, self.graph.y)
        fill = "0.9" if is_data else "white"
        marks: list[Mark] = [Box(x, y, width, height, fill, round=is_data)]
        text = self.texts[tensor]
        top = y - sum(font.height for _, font in text) / 2
        for line, font in text:
            marks.append(Words(x, top + font.height / 2, line, font, "center"))
            top += font.height
        return marks
