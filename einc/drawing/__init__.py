"""Drawings of a structure: its tensor network, and the tree in which it is contracted.

`figure` puts both together; `layered` and `columns` say where things stand, `picture`
draws them.
"""
