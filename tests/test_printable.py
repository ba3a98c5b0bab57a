"""What of a spec's text reaches generated code cannot break out of where it stands."""

from __future__ import annotations

import ast
import sys

import pytest

import einc
from einc import SpecError
from einc.attributes import why_refused

PRINTABLE = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isprintable()]
CHUNK = 4000


@pytest.mark.parametrize("start", range(0, len(PRINTABLE), CHUNK))
def test_every_printable_character_in_a_description(start: int) -> None:
    """A description is a comment of the generated file, whatever it says."""
    text = "".join(PRINTABLE[start : start + CHUNK]).replace('"', "")
    doc = f"{text} ''' \\ {{0}} %s {text[::-1]}\\"
    source = einc.parse(f'structure s {{ "{doc}" y[o] = x[i] * W[i, o] }}').source(4, 4)
    plain = einc.parse("structure s { y[o] = x[i] * W[i, o] }").source(4, 4)
    assert doc in source
    assert ast.dump(ast.parse(source)) == ast.dump(ast.parse(plain))


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\u2028", "\u202e", "\r"])
def test_what_is_not_printable_is_refused(character: str) -> None:
    with pytest.raises(SpecError):
        einc.parse(f'structure s {{ "a{character}b" y[o] = x[i] * W[i, o] }}')


SPECS = {
    "structure": "structure {} {{ y[o] = x[i] * W[i, o] }}",
    "parameter": "structure s({} = 2) {{ y[o] = x[i] * W[i, o] }}",
    "factor": "structure s {{ y[o] = x[i] * {}[i, o] normalize all }}",
    "index": "structure s {{ y[o] = x[i] * W[i, {0}] * V[{0}, o] {0} = 2 }}",
}


@pytest.mark.parametrize("place", SPECS)
def test_every_printable_character_in_a_name(place: str) -> None:
    """Alone and inside a name: refused, or the file compiles with it."""
    ascii_and_some = PRINTABLE[:400] + PRINTABLE[400::997]
    compiled = 0
    for character in ascii_and_some:
        for name in (character, f"a{character}b"):
            try:
                source = einc.parse(SPECS[place].format(name)).source(4, 4)
            except SpecError:
                continue
            compile(source, name, "exec")
            compiled += 1
    # Letters alone, and letters, digits and _ between two: but for x, y and d.
    assert compiled >= 45 + 52 + 10 + 1


PYTHON = """and class def None True self torch nn print len x1 y1 z z1 z2 w v super
__init__ property float half T data eval exec os options message rates eye batch""".split()


@pytest.mark.parametrize("name", PYTHON)
def test_names_that_look_like_python(name: str) -> None:
    """As a factor: refused with a reason, or the module computes with it."""
    text = f"structure s {{ y[o] = x[i] * {name}[i, r] * B[r, o] r = 3 normalize B }}"
    try:
        structure = einc.parse(text)
    except SpecError as error:
        assert why_refused(name) or not name[0].isalpha(), error
        return
    module = structure.module_class(4, 5)()
    factor = dict(module.named_parameters())[name]
    assert factor.shape == (4, 3)
    assert module.to_dense().shape == (5, 4)
    assert module(factor.new_ones(2, 4)).shape == (2, 5)
