"""Who has which connection, and who may take the next one.

Layout: visit (what a request has done with a pool), habits (what those of its route usually do),
account (what a holder has of a pool), holder (who takes connections), book (the lock, and what has
to wait for it). For each pool: stock (what there is, and who has a stake in it), promises (what is
set aside, and until when), queues (who waits at the checkout), entries (which requests wait before
they begin), turns (whose turn it is), door (where requests ask before they begin), ledger
(checkouts and returns); watched (of those that are only looked at). For each checkout that waits:
checkout, circles (whether its wait can end). And sqlalchemy, the one adapter, with what it asks a
pool and the app. All others know no library. Nothing here imports another room.

The rules, in the order in which a request meets them:

1. A request that holds nothing waits in the event loop, before it begins, where by the habit of its
   route it is about to take a connection and none is left (`Door`). What it takes on the
   event loop is set aside for it then, as nobody can wait there. So it is after a hop of its own,
   where by the habit of its route it takes one on the event loop only then.
2. In a thread it waits at the checkout (`Ledger.take`) until a connection is free that isn't set
   aside, and all who hold one could still come to their end (the banker's algorithm).
3. On the event loop it takes what is free. Else it waits only for what a thread is about to give
   back, and fails at once where that can't happen.
4. Where all who hold one wait for another, the newest fails.
"""
