"""Structures of the library beside nn.Linear, einsums and other libraries.

    python benchmarks/layers.py [--only NAME] [--dtype NAME] [--kernels native]
                                [--tokens N] [-o FOLDER]

Measures by `einc bench`, each structure and shape in a process of its own; other libraries
where they are installed (peers.py says how). Writes layers_DTYPE.json, all documents of
`einc bench --json`, and layers_DTYPE.md, a row a measurement. With --only the rows of
those structures are measured anew, and all others stay; with --tokens a structure has rows
of these numbers of tokens alone. With --kernels native the kernel in C takes part where
there is one, in calls of the tokens that it takes, and the files are layers_DTYPE_native.
Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Structure:
    """A SPEC with its options, who else has it, and whether it is compiled, too.

    At the first of the shapes: compilers take minutes. A `chain` of products has a kernel
    in C, a `long` one from the first token on.
    """

    spec: tuple[str, ...]
    peer: str | None = None
    compiled: bool = False
    chain: bool = True
    long: bool = False

    def options(self, d_in: int) -> list[str]:
        return [part.format(eighth=d_in // 8) for part in self.spec]


STRUCTURES = {
    "monarch": Structure(("monarch",), "torch_structured", compiled=True),
    "btt, rank 4": Structure(
        ("btt", "-D", "rank=4"), "torch_structured", compiled=True
    ),
    "dense": Structure(("dense",), chain=False),
    "low_rank, rank d/8": Structure(("low_rank", "-D", "rank={eighth}"), "tensorly"),
    "low_rank, rank sqrt d": Structure(("low_rank",), "tensorly", compiled=True),
    "kronecker": Structure(("kronecker",), "tensorly"),
    "tensor_train": Structure(("tensor_train",), "tensorly"),
    "blast": Structure(("blast",)),
    "butterfly3": Structure(("butterfly3",), long=True),
}
SHAPES = ((1024, 1024), (2304, 2304), (4096, 4096), (1024, 4096))
TOKENS = (1, 16, 256, 2048)
MORE = 8192
"""Tokens more, at 1,024 features."""
LEAST = {"float32": 256, "bfloat16": 1}
"""Tokens from which on a kernel in C is used with two products."""
PEERS = {"tensorly": "tltorch", "torch_structured": "torch_structured"}
"""What is imported for each."""
OTHERS = {
    "plain": "without kernel",
    "einsum": "einsum",
    "opt_einsum": "opt_einsum",
    "tensorly": "tensorly-torch",
    "torch_structured": "torch-structured",
}


def measured(
    structure: Structure,
    shape: tuple[int, int],
    dtype: str,
    kernels: str,
    tokens: Sequence[int],
) -> Any:
    """The document of `einc bench --json`."""
    command = [sys.executable, "-m", "einc", "bench", "--json", "--kernels", kernels]
    command += structure.options(shape[0])
    command += ["--in", str(shape[0]), "--out", str(shape[1]), "--dtype", dtype]
    waits = kernels == "native" and not structure.long
    least = LEAST[dtype] if waits else 1
    for count in tokens or (*TOKENS, *[MORE] * (shape == (1024, 1024))):
        command += ["--tokens", str(count)] * (count >= least)
    command += ["--compile"] * (structure.compiled and shape == SHAPES[0])
    if structure.peer is not None and find_spec(PEERS[structure.peer]):
        command += [
            "--beside",
            f"{Path(__file__).parent / 'peers.py'}:{structure.peer}",
        ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(ended.stdout)


def lines(name: str, document: dict[str, Any], others: list[str]) -> list[str]:
    features = document["features"]
    shape = f"{features['in']} x {features['out']}"
    found = []
    for row in document["rows"]:
        median = {who: spread["median"] for who, spread in row["seconds"].items()}
        own = median["module"]
        spread = row["ratio_spread"]["module"]
        cells = [name, shape, row["pass"], f"{row['tokens']:,}", f"{1e3 * own:.3g}"]
        cells += [f"{row['ratio']['module']:.3f}"]
        cells += [f"{spread['low']:.3f} to {spread['high']:.3f}"]
        cells += [f"{row['times_ideal']:.2f}", row["bound"]]
        for who in ("compiled", *others):
            cells.append(f"{median[who] / own:.2f}" if who in median else "")
        found.append(f"| {' | '.join(cells)} |")
    return found


def summary(documents: list[dict[str, Any]]) -> list[str]:
    """Where the module is not the fastest, as sentences."""
    rows = [row for document in documents for row in document["rows"]]
    ratios = [
        min(row["seconds"][who]["median"] for who in OTHERS if who in row["seconds"])
        / row["seconds"]["module"]["median"]
        for row in rows
    ]
    ahead = sum(ratio >= 1 for ratio in ratios)
    few = [row for row in rows if row["ideal"] <= row["seconds"]["dense"]["median"] / 4]
    slower = sum(row["ratio"]["module"] > 1 for row in few)
    return [
        f"The module is at least as fast as the best of the others in {ahead} of "
        f"{len(rows)} rows; in the others it reaches {min(ratios):.2f} of its speed or "
        f"more. Where it has at most a quarter of nn.Linear's FLOPs, it is slower than "
        f"nn.Linear in {slower} of {len(few)}.\n"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=STRUCTURES)
    parser.add_argument("--dtype", default="float32", metavar="NAME")
    parser.add_argument("--tokens", type=int, action="append", metavar="N", default=[])
    parser.add_argument("-o", type=Path, default=Path(), metavar="FOLDER")
    parser.add_argument("--kernels", default="torch", choices=["torch", "native"])
    options = parser.parse_args()
    is_native = options.kernels == "native"
    file = options.o / f"layers_{options.dtype}{'_native' * is_native}"
    others = [who for who in OTHERS if who != "plain" or is_native]
    structures = {n: s for n, s in STRUCTURES.items() if s.chain or not is_native}
    found: dict[str, list[Any]] = {}
    if options.only and file.with_suffix(".json").exists():
        found = json.loads(file.with_suffix(".json").read_text())
    for name in options.only or structures:
        found[name] = []
        for shape in SHAPES:
            found[name].append(
                measured(
                    STRUCTURES[name],
                    shape,
                    options.dtype,
                    options.kernels,
                    options.tokens,
                )
            )
            print("\n".join(lines(name, found[name][-1], others)), flush=True)
    found = {name: found[name] for name in STRUCTURES if name in found}
    documents = [document for some in found.values() for document in some]
    machine = documents[0]["machine"]
    told = ", ".join(
        f"{key}: {machine[key]}" for key in ("processor", "threads", "torch")
    )
    heads = ["structure", "features", "pass", "tokens", "ms", "/ nn.Linear"]
    heads += [
        "quartiles",
        "x ideal",
        "bound by",
        "compiled",
        *(OTHERS[who] for who in others),
    ]
    written = [
        f"{options.dtype}; {told}, allocator: {machine['allocator']}. Medians of rounds in "
        "which all take turns, and quartiles of the ratio. The last columns are the time of "
        "the compiled module and of others over the module's.\n",
        *summary(documents),
        f"| {' | '.join(heads)} |",
        f"| --- | --- | --- |{' ---: |' * 5} --- |{' ---: |' * (1 + len(others))}",
        *(
            line
            for name, some in found.items()
            for one in some
            for line in lines(name, one, others)
        ),
    ]
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    file.with_suffix(".md").write_text("\n".join(written) + "\n")


if __name__ == "__main__":
    main()
