"""Somebody looks: what the pools are doing, and what is told of it.

Layout: observer (told by each pool: stalls, and each hop while somebody measures), episodes and
stall_log (a stall from its beginning to its end), stacks (what threads are doing), stats (the
numbers), metrics (their names and how they are exported), advice (whether the sizes fit).
"""
