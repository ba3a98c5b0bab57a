"""The kernel in C: which structures have one, and what a generated file has of it."""
