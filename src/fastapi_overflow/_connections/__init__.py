"""Who has which connection, and who may take the next one.

Layout: habits (what the requests of a route usually do), holder (who takes connections), book (the
lock, and what has come back), ledger (the accounts of one pool, and who may go on), sqlalchemy (the
one adapter). All but the adapter know no library. Nothing here imports another room.

The rules, in the order in which a request meets them:

1. A request that holds nothing waits in the event loop, before it begins, where by the habit of its
   route it is about to take a connection and none is left (`Ledger.enter`). What it takes on the
   event loop is set aside for it then, as nobody can wait there.
2. In a thread it waits at the checkout (`Ledger.take`) until a connection is free that isn't set
   aside, and all who hold one could still come to their end (the banker's algorithm).
3. On the event loop it takes what is free. Else it waits only for what a thread is about to give
   back, and fails at once where that can't happen.
4. Where all who hold one wait for another, the newest fails.
"""
