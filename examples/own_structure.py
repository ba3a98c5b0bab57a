"""A structure of one's own: written as text, corrected, checked against einsum.

    python examples/own_structure.py

Features in four heads: each head passes the same narrow projection and then a map of
its own. The first attempt forgets to say how narrow.
"""

import importlib.util
import tempfile
from pathlib import Path

import torch

import einc

TEXT = """
structure shared_neck(width = 16) {
  "A map for each head, behind a projection that all heads share."

  y[h, o] = x[h, i] * S[i, s] * W[h, s, o]

  h = 4
}
"""


def main() -> None:
    try:
        einc.parse(TEXT)
    except einc.SpecError as error:
        print(f"{error}\n")

    structure = einc.parse(TEXT.replace("h = 4", "h = 4\n  s = width"), width=24)
    report = structure.analyze(128, 128)
    print(f"{structure.name}: {report.class_}, rank {report.figures.rank.bound}\n")

    # What `einc codegen -o` does: a file that needs torch alone.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shared_neck.py")
        path.write_text(structure.source(128, 128, class_name="SharedNeck"))
        spec = importlib.util.spec_from_file_location("shared_neck", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

    torch.manual_seed(0)
    layer = module.SharedNeck(bias=False)
    print(layer)
    x = torch.randn(10, 128)
    heads = x.reshape(10, 4, 32)
    wanted = torch.einsum("nhi,is,hso->nho", heads, layer.S, layer.W).reshape(10, 128)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(x @ layer.to_dense().T, wanted)
    print("equal to torch.einsum and to its own dense matrix")


if __name__ == "__main__":
    main()
