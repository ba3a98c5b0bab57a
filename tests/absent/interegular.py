"""What the grammar's test needs is absent from the commands that tests start.

Users have it seldom, and where it is lark compares all terminals at each start, which
takes a fifth of a second.
"""

raise ImportError
