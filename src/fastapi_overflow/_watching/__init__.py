"""Somebody looks: what the pools are doing, and what is told of it.

Layout: observer (told by each pool: stalls, and each hop while somebody measures), episodes and
stall_log (a stall from its beginning to its end), stacks (what threads are doing); connection_log
(who keeps connections) with how_often and writer, connections_out (who has which) with tasks;
stats, route_stats and pool_stats (the numbers), verdict (is it stuck), metrics (their names and how
they are exported); advice (what to change), with the routes, the reading of their code, and a
module for each kind of advice.
In the source, README.md shows what an operator sees of all this, with outputs as they came.
"""
