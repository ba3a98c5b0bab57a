"""How near each structure comes to a dense matrix, at equal numbers of parameters.

    python benchmarks/projection.py [--features 256] [--quick] [-o FOLDER]

The matrix has random singular vectors and singular values that fall as k^(-1), as those
of trained layers roughly do; beside it one with no structure at all, all of whose
singular values are alike. Each structure is projected at several ranks or numbers of
blocks by `einc.nn.project`; the error is |W - structured| / |W|. Writes projection.json
and projection.svg.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import torch

import einc

GRID: dict[str, list[dict[str, int]]] = {
    "low_rank": [{"rank": r} for r in (2, 4, 8, 16, 32, 64)],
    "btt": [{"rank": r} for r in (1, 2, 4, 8)],
    "monarch": [{}],
    "block_diagonal": [{"blocks": b} for b in (2, 4, 8, 16)],
    "kronecker": [{}],
    "tensor_train": [{"rank": r} for r in (1, 4, 16, 64)],
    "tensor_train3": [{"rank": r} for r in (4, 16, 32)],
    "blast": [{"blocks": 4, "rank": r} for r in (4, 8, 16, 32)],
}
MARKERS = "osv^Dx+*"


def matrices(features: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    shape = features, features
    left, right = (
        torch.linalg.qr(torch.randn(shape, dtype=torch.float64))[0] for _ in "lr"
    )
    values = torch.arange(1, features + 1, dtype=torch.float64).reciprocal()
    return {"decaying": left * values @ right, "flat": left @ right}


def measured(features: int, quick: bool) -> list[dict[str, Any]]:
    found = []
    for title, matrix in matrices(features).items():
        for name, options in GRID.items():
            for arguments in options[: 1 if quick else None]:
                made = einc.load(name, **arguments)
                module = made.module_class(features, features)(bias=False)
                error = einc.nn.project(module, matrix, seconds=2 if quick else 20)
                count = sum(p.numel() for p in module.parameters())
                row = {"matrix": title, "structure": name, "arguments": arguments}
                found.append(row | {"parameters": count, "error": round(error, 5)})
                print(json.dumps(found[-1]), flush=True)
    return found


def picture(rows: list[dict[str, Any]], features: int) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    titles = dict.fromkeys(row["matrix"] for row in rows)
    for axes, title in zip(figure.subplots(1, 2), titles, strict=True):
        for marker, name in zip(MARKERS, GRID, strict=True):
            points = [
                (row["parameters"] / features**2, row["error"])
                for row in rows
                if row["structure"] == name and row["matrix"] == title
            ]
            x, y = zip(*sorted(points), strict=True)
            axes.plot(x, y, marker=marker, color="black", linewidth=0.7, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("parameters, as a share of dense")
        axes.set_ylabel("relative error")
        axes.set_title(f"{title} singular values")
    figure.axes[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "einc"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="one point a structure")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = measured(options.features, options.quick)
    if options.output is not None:
        document = {
            "features": options.features,
            "torch": torch.__version__,
            "rows": rows,
        }
        text = json.dumps(document, indent=1) + "\n"
        (options.output / "projection.json").write_text(text)
        image = picture(rows, options.features)
        (options.output / "projection.svg").write_bytes(image)


if __name__ == "__main__":
    main()
