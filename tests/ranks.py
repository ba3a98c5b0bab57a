"""Ranks that einc reports against elimination of the whole matrix by other code.

    python tests/ranks.py --random 3000 --jobs 2

All two-factor structures of the paper's family with sizes 1 to 5, then random ones:
graphs (an index joins two tensors) and hypergraphs of three and four factors, routed
ones, paddings, ties and sums. W is made by one einsum a term over exact integers and
eliminated modulo 2^31 - 1; einc uses another prime and other draws. Prints how many
were closed by what, and every disagreement. The tests run a seeded share.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pool

import numpy as np
import torch

from einc import compiler, sizes, specs
from einc.analysis.certificate import certified
from einc.analysis.rank import Rank, rank
from einc.errors import SpecError
from einc.source import Source

PRIME = 2**31 - 1
LARGEST_SIDE = 64
LARGEST_PRODUCT = 50_000


@dataclass(frozen=True)
class Sample:
    """Equations with all sizes exact; `top` values are taken of the index `k`."""

    equations: tuple[str, ...]
    sizes: dict[str, int]
    d_in: int
    d_out: int
    top: int = 0

    @property
    def text(self) -> str:
        lines = [*self.equations]
        used = " ".join(self.equations)
        for name, size in self.sizes.items():
            if re.search(rf"\b{name}\b", used):
                lines.append(f"{name} = {size}")
        if self.top:
            lines.append(f"route k top {self.top}")
        return "structure s {\n  " + "\n  ".join(lines) + "\n}\n"


def matrix(sample: Sample, seed: int) -> np.ndarray:
    """W at integer factors, exactly. Factors of one name are one tensor."""
    rng = np.random.default_rng([seed, 7])
    sizes_ = sample.sizes | ({"k": sample.top} if sample.top else {})
    factors: dict[str, torch.Tensor] = {}
    total = 0
    for equation in sample.equations:
        tensors = [
            (name, re.findall(r"\w+", held))
            for name, held in re.findall(r"(\w+)\[([^]]*)\]", equation)
        ]
        (_, y), (_, x), *uses = tensors
        names = dict.fromkeys(i for _, held in tensors for i in held)
        letters = dict(zip(names, string.ascii_letters, strict=False))
        # So that no entry of W comes near 2^63.
        largest = 2 ** (40 // max(len(uses), 1)) if len(uses) > 1 else 10**6
        largest = min(largest, 10**6)
        for name, held in uses:
            if name not in factors:
                shape = [sizes_[i] for i in held]
                draw = rng.integers(-largest, largest, shape)
                factors[name] = torch.from_numpy(np.asarray(draw))
        units = torch.eye(math.prod(sizes_[i] for i in x), dtype=torch.int64)
        units = units.reshape(-1, *(sizes_[i] for i in x))
        inputs = ["Z" + "".join(letters[i] for i in x)]
        inputs += ["".join(letters[i] for i in held) for _, held in uses]
        output = "Z" + "".join(letters[i] for i in y)
        images = torch.einsum(
            f"{','.join(inputs)}->{output}", units, *(factors[n] for n, _ in uses)
        )
        total = total + images.reshape(len(units), -1).T[: sample.d_out, : sample.d_in]
    return np.asarray(total)


def eliminated(matrix: np.ndarray) -> int:
    """The rank over the field of integers modulo 2^31 - 1."""
    left = matrix.astype(np.int64) % PRIME
    found = 0
    for column in range(left.shape[1]):
        pivots = np.flatnonzero(left[found:, column])
        if not len(pivots):
            continue
        pivot = found + pivots[0]
        left[[found, pivot]] = left[[pivot, found]]
        left[found] = left[found] * pow(int(left[found, column]), -1, PRIME) % PRIME
        below = left[found + 1 :]
        below -= below[:, column : column + 1] * left[found] % PRIME
        below %= PRIME
        found += 1
        if found == left.shape[0]:
            break
    return found


def reported(sample: Sample) -> tuple[Rank, Rank]:
    """What theorems say, and what elimination adds."""
    source = Source.of("<random>", sample.text)
    structure = compiler.compile_definition(source, specs.parse(source).definitions[0])
    binding = sizes.bind(structure, sample.d_in, sample.d_out)
    by_theorem = rank(binding)
    return by_theorem, certified(binding, by_theorem)


def judged(sample: Sample) -> tuple[Sample, str, str]:
    return sample, *judge(sample)


def judge(sample: Sample) -> tuple[str, str]:
    """How the rank was found, and what is wrong with it."""
    try:
        by_theorem, found = reported(sample)
    except SpecError:
        return "refused", ""
    true = 0
    for seed in range(3):
        true = max(true, eliminated(matrix(sample, seed)))
        if true == found.bound:
            break
    faults = [
        f"generic {found.generic}, not {true}" * (found.generic != true),
        f"at most {found.bound}, not {true}" * (found.bound < true),
        f"at least {by_theorem.least}, not {true}" * (by_theorem.least > true),
        "a theorem that elimination refutes"
        * (by_theorem.status == "proved" and by_theorem.generic != true),
        "proved below its bound" * (found.status == "proved" and true < found.bound),
        "not decided" * (found.status == "bound only"),
    ]
    wrong = "; ".join(filter(None, faults))
    if by_theorem.status == "proved":
        return re.sub(
            r"powers of \d+", "powers of one integer", by_theorem.method
        ), wrong
    return f"elimination, {found.status}", wrong


# What is tried


def family(largest: int = 5) -> Iterator[Sample]:
    """The paper's two factors with all seven sizes from 1 up."""
    equation = "y[d1, e, f] = x[a, b, g] * A[a, g, d1, f, r] * B[b, g, e, f, r]"
    for values in itertools.product(range(1, largest + 1), repeat=7):
        named = dict(zip(("a", "b", "g", "d1", "e", "f", "r"), values, strict=True))
        yield Sample((equation,), named, math.prod(values[:3]), math.prod(values[3:6]))


def term(
    rng: random.Random, graph: bool, factors: int, sizes: dict[str, int], number: int
) -> tuple[str, int, int] | None:
    """One equation with new sizes, and the features it has; None where too large."""
    names = [f"{letter}{number}" for letter in "ABCD"[:factors]]
    held: dict[str, list[str]] = {name: [] for name in ("x", "y", *names)}
    own: dict[str, int] = {}
    for i in range(rng.randint(factors + 2, factors + 6)):
        index = f"{'abcefghijl'[i]}{number}"
        many = 2 if graph else rng.choice((1, 2, 2, 2, 3, 3, 4))
        holders = rng.sample(list(held), min(many, len(held)))
        own[index] = rng.choice((1, 2, 2, 2, 3, 3, 3, 4, 5))
        for name in {"x", "y"} if holders == ["y"] else holders:
            held[name].insert(rng.randint(0, len(held[name])), index)
    d_in, d_out = (math.prod(own[i] for i in held[side]) for side in "xy")
    if max(d_in, d_out) > LARGEST_SIDE or math.prod(own.values()) > LARGEST_PRODUCT:
        return None
    sizes |= own
    refs = [f"{name}[{', '.join(held[name])}]" for name in ("x", *names)]
    return f"y[{', '.join(held['y'])}] = {' * '.join(refs)}", d_in, d_out


def one_term(graph: bool) -> Callable[[random.Random], Sample | None]:
    def draw(rng: random.Random) -> Sample | None:
        sizes: dict[str, int] = {}
        found = term(rng, graph, rng.choice((3, 3, 4)), sizes, 0)
        return found and Sample((found[0],), sizes, *found[1:])

    return draw


def routed(rng: random.Random) -> Sample | None:
    sample = one_term(graph=rng.random() < 0.5)(rng)
    if sample is None:
        return None
    head, *refs = sample.equations[0].split(" * ")
    chosen = rng.sample(range(len(refs)), rng.randint(1, len(refs)))
    for i in chosen:
        refs[i] = refs[i].replace("[]", "[k]").replace("]", ", k]").replace("k, k", "k")
    size = rng.randint(1, 4)
    return Sample(
        (" * ".join([head, *refs]),),
        sample.sizes | {"k": size},
        sample.d_in,
        sample.d_out,
        rng.randint(1, size),
    )


def padded(rng: random.Random) -> Sample | None:
    """Fewer features than the sizes multiply to, by up to 5%."""
    sizes: dict[str, int] = {}
    found = term(rng, rng.random() < 0.5, rng.choice((1, 2, 3)), sizes, 0)
    if found is None:
        return None
    equation, *features = found
    less = [rng.randint(math.ceil(n / 1.05), n) for n in features]
    return None if less == features else Sample((equation,), sizes, *less)


def tied(rng: random.Random) -> Sample | None:
    """A term in which one factor stands once more, at indices of the same sizes.

    Or all of them, at inner indices of their own.
    """
    sizes: dict[str, int] = {}
    found = term(rng, rng.random() < 0.5, rng.choice((1, 2, 3)), sizes, 0)
    if found is None:
        return None
    equation = found[0]
    if rng.random() < 0.5:
        head, *refs = equation.split(" * ")
        again = [
            re.sub(r"\w+(?=[],])", lambda m: m[0] if m[0] in head else f"s{m[0]}", ref)
            for ref in refs
        ]
        sizes |= {f"s{index}": size for index, size in sizes.items()}
        return Sample((" * ".join([head, *refs, *again]),), sizes, *found[1:])
    name, held = rng.choice(re.findall(r"([A-D]0)\[([^]]*)\]", equation))
    others: list[str] = []
    for index in re.findall(r"\w+", held):
        same = [i for i, size in sizes.items() if size == sizes[index]]
        same += ["new" + index] * 2
        free = [i for i in same if i not in others]
        others.append(rng.choice(free))
        sizes[others[-1]] = sizes[index]
    equation += f" * {name}[{', '.join(others)}]"
    if rng.random() < 0.5:  # what is new leads on to a factor of its own
        new = [i for i in others if i.startswith("new")]
        equation += f" * E0[{', '.join(new)}]" * bool(new)
    return Sample((equation,), sizes, *found[1:])


def summed(rng: random.Random) -> Sample | None:
    """Two or three terms: sides of the same features, or padded to a term's."""
    sizes: dict[str, int] = {}
    terms = []
    for number in range(rng.choice((2, 2, 3))):
        found = term(rng, rng.random() < 0.5, rng.choice((1, 1, 2)), sizes, number)
        if found is None:
            return None
        terms.append(found)
    d_in, d_out = (min(term[side] for term in terms) for side in (1, 2))
    if any(t[1] > 1.05 * d_in or t[2] > 1.05 * d_out for t in terms):
        return None
    equations = [terms[0][0], *(t[0].replace("=", "+=", 1) for t in terms[1:])]
    if rng.random() < 0.3:  # a factor of two terms
        equations[1] += f" * {re.findall(r'A0.[^]]*.', equations[0])[0]}"
        held = re.findall(r"\w+", equations[1].rsplit("[", 1)[1])
        equations[1] = equations[1].rsplit("[", 1)[0] + (
            "[" + ", ".join(f"t{i}" for i in held) + "]"
        )
        sizes |= {f"t{i}": sizes[i] for i in held}
    return Sample(tuple(equations), sizes, d_in, d_out)


RANDOM: dict[str, Callable[[random.Random], Sample | None]] = {
    "graphs": one_term(graph=True),
    "hypergraphs": one_term(graph=False),
    "routed": routed,
    "padded": padded,
    "tied": tied,
    "sums": summed,
}


def drawn(kind: str, number: int, seed: int) -> Iterator[Sample]:
    """`number` samples of a kind, the same for the same seed."""
    rng = random.Random(f"{kind} {seed}")
    found = 0
    while found < number:
        sample = RANDOM[kind](rng)
        if sample is not None:
            found += 1
            yield sample


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=5, help="size of the family")
    parser.add_argument("--random", type=int, default=3000, help="samples of a kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    kinds: dict[str, Iterator[Sample]] = {"two factors": family(options.largest)}
    for kind in RANDOM:
        kinds[kind] = drawn(kind, options.random, options.seed)
    wrong = 0
    torch.set_num_threads(1)
    with Pool(options.jobs) as pool:
        for kind, samples in kinds.items():
            started, counts = time.perf_counter(), Counter[str]()
            for sample, how, fault in pool.imap(judged, samples, chunksize=64):
                counts[how] += 1
                if fault:
                    wrong += 1
                    print(f"{fault}\n{sample.text}{sample.d_in} x {sample.d_out}")
            seconds = time.perf_counter() - started
            print(f"{kind}: {counts.total():,} in {seconds:.0f} s", flush=True)
            for how, count in counts.most_common():
                print(f"  {count:>7,}  {how}")
    print(f"{wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
