"""The map of structures by their exponents: a figure for print, or a page to turn.

`places` says what is where, `figure` and `page` draw it, `file` chooses between them.
"""
