"""Search over the structures that an einsum can express: hypergraphs and exponents.

`hypergraphs` lists index hypergraphs, `grid` their exponents, `extremes` finds what is
best exactly, `candidates` makes structures of them, and `run` is the search.
"""
