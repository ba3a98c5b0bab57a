"""What does a budget buy? Structures at the largest rank that stays within it.

    python examples/budget.py [IN OUT SHARE]

For each structure with a rank, the largest one whose forward FLOPs are at most SHARE
of those of nn.Linear, and the rank that the whole matrix can then have. Nothing is
trained and torch is not needed: all of it is analysis.
"""

import sys

import einc
from einc.analysis.profile import Figures

STRUCTURES = ("low_rank", "blast", "btt", "tensor_train")
LARGEST = 4096


def figures(name: str, rank: int, d_in: int, d_out: int) -> Figures:
    # The bound on the rank is enough here, and a proof that it is met takes longer.
    found = einc.load(name, rank=rank).analyze(d_in, d_out, certify=False).figures
    assert found is not None
    return found


def largest_rank(name: str, d_in: int, d_out: int, share: float) -> int:
    """By bisection: the work grows with the rank. 0 where rank 1 is too much."""
    low, high = 0, LARGEST
    while low < high:
        rank = (low + high + 1) // 2
        if figures(name, rank, d_in, d_out).flop_share <= share:
            low = rank
        else:
            high = rank - 1
    return low


def main() -> None:
    given = sys.argv[1:] or ["768", "3072", "0.1"]
    d_in, d_out, share = int(given[0]), int(given[1]), float(given[2])
    print(f"{d_in} -> {d_out}, at most {share:.0%} of the FLOPs of nn.Linear")
    print(f"{'':14}{'rank =':>8}{'parameters':>12}{'FLOPs':>12}{'rank of W':>12}")
    for name in STRUCTURES:
        rank = largest_rank(name, d_in, d_out, share)
        if rank == 0:
            print(f"{name:14}{'too much at any rank':>40}")
            continue
        found = figures(name, rank, d_in, d_out)
        flops = int(2 * found.work.matrix)
        print(
            f"{name:14}{rank:8,}{found.parameters.total:12,}{flops:12,}"
            f"{found.rank.bound:12,}"
        )


if __name__ == "__main__":
    main()
