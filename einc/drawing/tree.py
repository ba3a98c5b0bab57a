"""The contraction tree of a plan as a picture: a dendrogram beside a table.

The tensors stand in a row, and each step has a row of its own below them, in order:
in the tree the node where its two operands meet, in the table what it computes, its
einsum and its cost. So no line of the tree comes near a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from einc.drawing.labels import Labels, wrapped
from einc.drawing.picture import (
    Box,
    Dot,
    Font,
    Line,
    Mark,
    Picture,
    Words,
    stacked,
    widest,
    width_of,
)
from einc.plan import Contraction, Node, TermPlan

NAME, HEAD, TEXT, CODE = Font(9, bold=True), Font(7), Font(8), Font(8, mono=True)
LEAF, RADIUS, PAD = 15.0, 7.0, 5.0
GAP, COLUMN_GAP, TERM_GAP, ROW_SPACE = 8.0, 16.0, 12.0, 8.0


@dataclass(frozen=True)
class _Column:
    """A column of the table: its heading, its font, and the letters of a line."""

    heading: str
    font: Font
    wrap: int
    right: bool = False
    gap: float = COLUMN_GAP


COLUMNS = (
    _Column("result", TEXT, 30),
    _Column("einsum", CODE, 36),
    _Column("multiply-adds a token", TEXT, 24, right=True, gap=GAP),
    _Column("", TEXT, 24),
)
COST = 2


@dataclass(frozen=True)
class _Row:
    """What stands beside a node of the tree: the lines of each cell.

    `number` is that of the step; a term without any has one row without a number.
    """

    number: str
    cells: tuple[list[str], ...]

    @property
    def height(self) -> float:
        return max(map(len, self.cells)) * TEXT.height + ROW_SPACE


def drawn_tree(labels: Labels) -> Picture:
    """The trees of all terms, one under the other, and one table beside them.

    What was computed before is a leaf there, in a dashed frame.
    """
    profile, terms = labels.profile, labels.profile.plan.terms
    rows: dict[int, _Row] = {}
    steps = zip(profile.plan.steps, profile.steps, strict=True)
    for number, ((term, step), report) in enumerate(steps, start=1):
        cost, growth = labels.cost(step, report)
        texts = (labels.result(term, step), report.einsum, cost, growth)
        rows[id(step)] = _row(str(number), texts)
    for term in terms:
        if id(term.root) not in rows:
            rows[id(term.root)] = _row(
                "", (labels.without_step(term.root), "", "0", "")
            )
    total = labels.total() if len(profile.steps) > 1 else ""
    trees = [_Tree(labels, term, rows) for term in terms]
    left = max(tree.width for tree in trees) + COLUMN_GAP
    table = _Table(left, list(rows.values()), total)
    pictures = [tree.picture(table) for tree in trees]
    picture = table.with_headings(stacked(pictures, TERM_GAP))
    return table.with_total(picture) if total else picture


def _row(number: str, texts: Sequence[str]) -> _Row:
    cells = zip(texts, COLUMNS, strict=True)
    return _Row(number, tuple(wrapped(text, column.wrap) for text, column in cells))


class _Table:
    """Where the columns are: as wide as what stands in them."""

    def __init__(self, left: float, rows: Sequence[_Row], total: str) -> None:
        self.left, self.total = left, total
        # Where each column starts and ends.
        self.spans: list[tuple[float, float]] = []
        self.right = start = left
        for number, column in enumerate(COLUMNS):
            lines = [line for row in rows for line in row.cells[number]]
            lines += [total] * (number == COST)
            heading = width_of(column.heading, HEAD)
            width = max(heading, widest(lines, column.font))
            self.spans.append((start, start + width))
            if width:
                self.right = start + width
                start = self.right + column.gap

    def _cell(self, number: int, y: float, text: str, font: Font) -> Words:
        start, end = self.spans[number]
        if COLUMNS[number].right:
            return Words(end, y, text, font, "right")
        return Words(start, y, text, font)

    def row(self, row: _Row, y: float) -> list[Mark]:
        """The cells of a row, their middles at one height."""
        return [
            self._cell(
                number, y + (i - (len(lines) - 1) / 2) * TEXT.height, line, column.font
            )
            for number, (lines, column) in enumerate(
                zip(row.cells, COLUMNS, strict=True)
            )
            for i, line in enumerate(lines)
            if line
        ]

    def with_headings(self, picture: Picture) -> Picture:
        """They stand at the height of the leaves."""
        marks: list[Mark] = [
            self._cell(number, LEAF / 2, column.heading, HEAD)
            for number, column in enumerate(COLUMNS)
            if column.heading
        ]
        marks.append(Line(((self.left, LEAF), (self.right, LEAF))))
        return Picture(picture.width, picture.height, (*picture.marks, *marks))

    def with_total(self, picture: Picture) -> Picture:
        """The sum of the costs, under a line."""
        height = picture.height + TEXT.height + 4
        y = height - TEXT.height / 2
        rule = Line(((self.left, picture.height), (self.right, picture.height)))
        name = self._cell(0, y, "all steps", TEXT)
        total = self._cell(COST, y, self.total, TEXT)
        return Picture(picture.width, height, (*picture.marks, rule, name, total))


class _Tree:
    """The tree of a term down to what has no row: tensors, and what was there before.

    Nodes are known by their `id`, since equal ones may stand in several places.
    """

    def __init__(
        self, labels: Labels, term: TermPlan, rows: Mapping[int, _Row]
    ) -> None:
        self.labels, self.root, self.rows = labels, term.root, rows
        self.width = 0.0
        self.centres: dict[int, float] = {}
        self.inner: list[Node] = []
        self._spread(self.root)

    def _operands(self, node: Node) -> tuple[Node, ...]:
        """The two operands of a step, x first; of a leaf none."""
        row = self.rows.get(id(node))
        if isinstance(node, Contraction) and row is not None and row.number:
            return node.x_first
        return ()

    def _leaf_width(self, node: Node) -> float:
        return max(LEAF, width_of(self.labels.name(node.name), NAME) + 2 * PAD)

    def _spread(self, node: Node) -> None:
        """Leaves from left to right, each other node in the middle of its operands."""
        operands = self._operands(node)
        for operand in operands:
            self._spread(operand)
        if operands:
            self.inner.append(node)
            middles = [self.centres[id(operand)] for operand in operands]
            self.centres[id(node)] = sum(middles) / 2
        else:
            start = self.width + GAP if self.width else 0.0
            self.width = start + self._leaf_width(node)
            self.centres[id(node)] = (start + self.width) / 2

    def picture(self, table: _Table) -> Picture:
        heights: dict[int, float] = {}
        marks: list[Mark] = []
        end = LEAF + ROW_SPACE / 2
        for node in sorted(self.inner, key=self._number) or [self.root]:
            row = self.rows[id(node)]
            heights[id(node)] = end + row.height / 2
            marks += table.row(row, heights[id(node)])
            end += row.height
        marks += self._marks(self.root, heights)
        if not self.inner:
            x, y = self.centres[id(self.root)], heights[id(self.root)]
            marks += [Line(((x, LEAF), (x, y))), Dot(x, y, RADIUS / 3, "white")]
        return Picture(table.right, end, tuple(marks))

    def _number(self, node: Node) -> int:
        return int(self.rows[id(node)].number)

    def _marks(self, node: Node, heights: Mapping[int, float]) -> list[Mark]:
        operands = self._operands(node)
        if not operands:
            return self._leaf(node)
        x, y = self.centres[id(node)], heights[id(node)]
        marks: list[Mark] = []
        for operand in operands:
            there = self.centres[id(operand)]
            start = heights[id(operand)] + RADIUS if self._operands(operand) else LEAF
            end = x - RADIUS if there < x else x + RADIUS
            marks.append(Line(((there, start), (there, y), (end, y))))
            marks += self._marks(operand, heights)
        number = Words(x, y, self.rows[id(node)].number, HEAD, "center")
        return [*marks, Dot(x, y, RADIUS, "white"), number]

    def _leaf(self, node: Node) -> list[Mark]:
        x, y, width = self.centres[id(node)], LEAF / 2, self._leaf_width(node)
        if node.name == "x":
            box = Box(x, y, width, LEAF, fill="0.9", round=True)
        else:
            box = Box(x, y, width, LEAF, dashed=isinstance(node, Contraction))
        return [box, Words(x, y, self.labels.name(node.name), NAME, "center")]
