"""Structures of the library beside nn.Linear and one-shot einsums, by `einc bench`.

    python benchmarks/layers.py [--quick] [--dtype NAME] [-o FOLDER]

Each structure and shape is a process of its own. Writes layers_DTYPE.json, all documents
of `einc bench --json`, and layers_DTYPE.md, a row a measurement. `--quick` measures
Monarch and Block Tensor-Train alone, at two widths. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

STRUCTURES: dict[str, list[str]] = {
    "monarch": ["monarch"],
    "btt, rank 4": ["btt", "-D", "rank=4"],
    "dense": ["dense"],
    "low_rank, rank sqrt d": ["low_rank"],
    "kronecker": ["kronecker"],
    "tensor_train": ["tensor_train"],
    "blast": ["blast"],
    "butterfly3": ["butterfly3"],
}
SHAPES = [(1024, 1024), (4096, 4096), (2304, 2304), (1024, 4096)]
TOKENS = (1, 16, 256, 2048)
COLUMNS = ("einsum", "opt_einsum")


def measured(spec: list[str], shape: tuple[int, int], dtype: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "einc", "bench", *spec, "--json"]
    command += ["--in", str(shape[0]), "--out", str(shape[1]), "--dtype", dtype]
    for tokens in TOKENS:
        command += ["--tokens", str(tokens)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def lines(name: str, document: dict[str, Any]) -> list[str]:
    features = document["features"]
    shape = f"{features['in']} x {features['out']}"
    found = []
    for row in document["rows"]:
        seconds, ratio = row["seconds"], row["ratio"]
        others = [
            f"{seconds[other]['median'] / seconds['module']['median']:.2f}"
            if other in seconds
            else ""
            for other in COLUMNS
        ]
        cells = [name, shape, row["pass"], f"{row['tokens']:,}"]
        cells += [f"{1e3 * seconds['module']['median']:.3g}", f"{ratio['module']:.3f}"]
        cells += [f"{row['times_ideal']:.2f}", *others, row["bound"]]
        found.append(f"| {' | '.join(cells)} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two structures and widths"
    )
    parser.add_argument("--dtype", default="float32", metavar="NAME")
    parser.add_argument("-o", type=Path, default=Path(), metavar="FOLDER")
    options = parser.parse_args()
    names = list(STRUCTURES)[: 2 if options.quick else None]
    shapes = SHAPES[: 2 if options.quick else None]
    documents, rows = [], []
    for name in names:
        for shape in shapes:
            document = measured(STRUCTURES[name], shape, options.dtype)
            documents.append(document)
            rows += lines(name, document)
            print("\n".join(rows[-8:]), flush=True)
    machine = documents[0]["machine"]
    told = ", ".join(
        f"{key}: {machine[key]}" for key in ("processor", "threads", "torch")
    )
    header = [
        f"{options.dtype}; {told}, allocator: {machine['allocator']}. Medians of rounds in "
        "which all take turns. `einsum` and `opt_einsum`: their time over the module's.\n",
        "| structure | features | pass | tokens | ms | / nn.Linear | x ideal | einsum "
        "| opt_einsum | bound by |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    file = options.o / f"layers_{options.dtype}"
    file.with_suffix(".json").write_text(json.dumps(documents, indent=1) + "\n")
    file.with_suffix(".md").write_text("\n".join([*header, *rows]) + "\n")


if __name__ == "__main__":
    main()
