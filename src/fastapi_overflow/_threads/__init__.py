"""Who gets a thread, and in which order: the tokens of one event loop.

Called for every hop, from the event loop's thread only. Nothing here blocks, starts a thread, or
knows of anyio, wrapt, Starlette or the environment: only the standard library is imported.

Vocabulary, used everywhere in this project:
    limit    how many threads the hops of one event loop may have (anyio: total_tokens)
    token    the right to one thread
    hop      one trip of an async function into a thread and back
    lease    one request's claim: it keeps the token of a finished hop for a few turns of the loop
    linger   what a token does between two hops of its lease
    reserve  tokens of the limit that only later hops (not a request's first) may take
    waiter   a hop that waits for a token
    share    how many tokens the requests of one route have
    quiet    a token beyond the limit, for a route that has none
    stall    somebody waits and nothing has finished for a while

Layout: pool (who gets a token: one numbered list of invariants), made of tokens (the books),
waiters (the queue), shares (of the routes; code tells what else than a route a hop calls),
patience (who has waited for too long), lingering (tokens between two hops), stall_watch with growth
and kinds (who gets a thread when nothing moves); lease (one request's claim), clock (what is needed
of an event loop), counters and snapshot (what others may read), observer (who is told).
"""
