"""Imports go one way: a file of einc imports only from lower layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "einc"

LAYERS = """
source
errors factorise attributes
syntax explain calibration times
expressions mistakes
parser
structure layout
scope network
equations statements lint ties
resolve choose covering stated
library agreed
sizes
family order
plan
analysis.counts analysis.exponents analysis.scaling
analysis.reduction analysis.elimination
analysis.rank
analysis.certificate analysis.why
analysis.profile
codegen.choices
codegen.nodes codegen.names codegen.writer codegen.runtime
codegen.results
codegen.tiles codegen.triton_runtime codegen.kernel_runtime
codegen.native.runtime codegen.native.c_common codegen.native.c_float32
codegen.native.c_bfloat16 codegen.native.c_pairs
codegen.strided
codegen.layout codegen.lines codegen.recorder
codegen.native.loops codegen.native.chain
codegen.native.looped codegen.native.matrices codegen.native.c_source
codegen.native.c_loops codegen.native.c_matrices
codegen.statements
codegen.fusion codegen.triton codegen.native.kernel codegen.operations
codegen.experts codegen.routed codegen.header codegen.gradients codegen.by_hand
codegen.chunks
codegen.orientations
codegen.lowering
codegen.lower codegen.emit
specs
compiler
taxonomy predict nn.compile plots drawing.layered drawing.picture
drawing.columns
nn.spectrum nn.dense nn.fitting
nn.adapter
nn.projection nn.staying
api report
nn.training predict_report
nn.swap
maps.places drawing.labels
maps.figure maps.page
maps.file
drawing.network drawing.tree
drawing.figure
options output
asked
search.linear search.hypergraphs search.wishes
search.forms
search.pool
search.grid search.extremes search.candidates search.refine
search.walk search.found
search.state
search.run
search.request search.written search.shown search.picture
nn.timing
nn.machine nn.contestants
nn.beside
nn.bench nn.tune nn.overheads
nn.calibrate
bench_report
scale.layers scale.results scale.fits scale.tuning
scale.moe scale.frontier
scale.contestants scale.multiplier
scale.models scale.summaries
scale.compute scale.regression scale.sequences scale.claims scale.figures
scale.text scale.pixels scale.told
scale.tasks scale.report
scale.job scale.settings
scale.parallel scale.workers
scale.training scale.cluster
scale.budget
scale.study
commands.certify commands.codegen commands.check commands.explain commands.fmt
commands.library commands.draw commands.search commands.scale
commands.analyze commands.bench commands.taxonomy
cli
__main__
"""
"""Lowest first. What stands on one line does not import from its neighbours."""

LAYER = {
    name: number
    for number, line in enumerate(LAYERS.split("\n"))
    for name in line.split()
}
PACKAGES = (
    *("", "nn", "analysis", "codegen", "codegen.native", "commands"),
    *("search", "drawing", "maps", "scale"),
)
"""They say what they are for, and the first two what they offer; nothing imports from
them but einc's version."""


def modules() -> dict[str, Path]:
    """The files of einc by their names inside it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES = modules()


def imported(text: str) -> Iterator[tuple[int, str]]:
    """The modules of einc that a text imports, anywhere in it, with their lines."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.split(".")[0] == "einc":
                        yield node.lineno, alias.name.removeprefix("einc").lstrip(".")
            case ast.ImportFrom(level=level) if level:
                yield node.lineno, "a relative import"
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] != "einc":
                    continue
                inside = module.removeprefix("einc").lstrip(".")
                for alias in names:
                    nested = f"{inside}.{alias.name}".lstrip(".")
                    if nested in MODULES:
                        yield node.lineno, nested
                    elif (inside, alias.name) != ("", "__version__"):
                        yield node.lineno, inside


def upward(name: str, text: str) -> list[str]:
    """Imports of module `name` that do not go down."""
    return [
        f"einc/{name.replace('.', '/')}.py:{line} imports {other or 'einc'}"
        for line, other in imported(text)
        if LAYER.get(other, len(LAYER)) >= LAYER[name]
    ]


def test_every_file_has_a_place():
    assert set(MODULES) - set(PACKAGES) == set(LAYER)


@pytest.mark.parametrize("name", LAYER)
def test_imports_go_down(name: str):
    assert upward(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", PACKAGES[2:])
def test_packages_import_nothing(name: str):
    assert list(imported(MODULES[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "from einc.plan import Plan",
        "from einc import compiler",
        "import einc.sizes",
        "import einc",
        "from einc import load",
        "from . import source",
        "def f():\n    from einc.cli import main",
        "if TYPE_CHECKING:\n    from einc.analysis import profile",
    ],
)
def test_this_test_can_fail(text: str):
    assert upward("sizes", text)
    assert not upward("cli", "from einc import __version__, plan")
