"""Every request and every hop: the replacements, the lease, the limiter.

Layout: replacements (wrappers, what the table of patches names), hops (what they make),
lease_of_request (where a request begins and ends), overloaded (what it gets that has waited too
long for its first thread), limiters (the one of each event loop), limiter
(anyio's contract on top of the pool), handover, worker_queue and worker_results (how a hop reaches
its thread, and its result the loop), thread_limit (`set_thread_limit()`).
"""
