"""Descriptions of apps, drawn from a seed: what a request does with connections, in which thread.

Pure data, so that a seed that fails can be printed, read and made smaller by hand. It must never
draw a request that takes more connections at once than the pool has: nothing can help that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

# (pool_size, max_overflow)
POOLS = ((5, 10), (5, 10), (5, 0), (3, 2), (2, 4))

REQUESTS = (100, 150, 200)

DEEPEST = 2  # hops within hops


@dataclass(frozen=True)
class Step:
    """One thing that code does.

    :ivar kind: query, commit, close (of the session or connection of dependency `of`); own (a
        session of its own, kept for the steps within); pause; and elsewhere: hop
        (run_in_threadpool), to_thread (asyncio's), gather (two hops at once), loop (from a hop's
        thread, through anyio.from_thread.run)
    :ivar of: the dependency
    :ivar ms: of a pause
    :ivar within: the steps of each hop, one tuple for each
    """

    kind: str
    of: int = 0
    ms: int = 0
    within: tuple[tuple[Step, ...], ...] = ()

    def __str__(self) -> str:
        if self.kind == "pause":
            return f"pause {self.ms}ms"
        if self.kind in ("query", "commit", "close"):
            return f"{self.kind} d{self.of}"
        within = " | ".join(_shown(steps) for steps in self.within)
        return f"{self.kind}({within})" if within else self.kind

    @property
    def most(self) -> int:
        """The connections that it takes at once, beside those of the dependencies."""
        return (self.kind == "own") + sum(_most(steps) for steps in self.within)


@dataclass(frozen=True)
class Dependency:
    """A dependency that yields: a session, one that has queried, or a raw connection."""

    kind: str  # session, querying session, connection
    is_async: bool

    def __str__(self) -> str:
        return f"{'async' if self.is_async else 'sync'} {self.kind}"


@dataclass(frozen=True)
class Route:
    """One route: a tail is what comes after the endpoint has returned.

    :ivar tail: nothing, a stream (of two items, each of which queries a session of its own), a
        background task or a field computed in the response model, each with a session of its own
    """

    dependencies: tuple[Dependency, ...]
    is_async: bool
    steps: tuple[Step, ...]
    tail: str

    def __str__(self) -> str:
        given = ", ".join(f"d{n} {each}" for n, each in enumerate(self.dependencies))
        endpoint = "async" if self.is_async else "sync"
        return f"[{given}] {endpoint}: {_shown(self.steps)} -> {self.tail or 'answer'}"

    @property
    def most(self) -> int:
        return len(self.dependencies) + max(_most(self.steps), bool(self.tail))


@dataclass(frozen=True)
class Middleware:
    """A middleware inside the app with a session of its own.

    :ivar style: BaseHTTPMiddleware, or ASGI
    :ivar keeps: whether it keeps its connection while the request is answered
    :ivar hops: whether it queries in a hop, else on the loop
    """

    style: str
    keeps: bool
    hops: bool

    def __str__(self) -> str:
        where = "in a hop" if self.hops else "on the loop"
        return f"{self.style} that queries {where}{', kept' if self.keeps else ''}"


@dataclass(frozen=True)
class App:
    """An app, and how many requests it gets at once, over all routes."""

    seed: int
    pool_size: int
    max_overflow: int
    requests: int
    middleware: Middleware | None
    routes: tuple[Route, ...]

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: pool {self.pool_size} + {self.max_overflow},"
            f" {self.requests} requests, middleware {self.middleware}"
        ]
        lines += [f"  /{n} {route}" for n, route in enumerate(self.routes)]
        return "\n".join(lines)

    @property
    def capacity(self) -> int:
        return self.pool_size + self.max_overflow

    @property
    def most(self) -> int:
        """The connections that a request takes at once, at most."""
        return (self.middleware is not None) + max(route.most for route in self.routes)


def draw(seed: int) -> App:
    """Return the app of this seed: the same one wherever it is drawn."""
    random = Random(seed)
    while True:
        pool_size, max_overflow = random.choice(POOLS)
        app = App(
            seed,
            pool_size,
            max_overflow,
            random.choice(REQUESTS),
            _middleware(random),
            tuple(_route(random) for _ in range(random.randint(1, 3))),
        )
        # The last one is for a claim that turns out to be too low.
        if app.most < app.capacity:
            return app


def _middleware(random: Random) -> Middleware | None:
    if random.random() < 0.6:
        return None
    style = random.choice(("BaseHTTPMiddleware", "ASGI"))
    return Middleware(style, random.random() < 0.4, random.random() < 0.4)


def _route(random: Random) -> Route:
    kinds = ("session", "session", "querying session", "connection")
    dependencies = tuple(
        Dependency(random.choice(kinds), random.random() < 0.4)
        for _ in range(random.choice((0, 1, 1, 1, 2)))
    )
    is_async = random.random() < 0.55
    steps = _steps(random, dependencies, "loop" if is_async else "hop", 0)
    tail = random.choice(("", "", "", "sync stream", "async stream"))
    if not tail:
        tail = random.choice(("", "", "sync background", "async background", "response model"))
    return Route(dependencies, is_async, steps, tail)


def _steps(
    random: Random, dependencies: tuple[Dependency, ...], where: str, depth: int
) -> tuple[Step, ...]:
    """Return steps for code that runs on the loop, in a hop, or in asyncio's executor.

    :param dependencies: those that it may use; none where it runs beside other code of the request
    """
    return tuple(
        _step(random, dependencies, where, depth) for _ in range(random.randint(1, 4 - depth))
    )


def _step(random: Random, dependencies: tuple[Dependency, ...], where: str, depth: int) -> Step:
    kinds = ["own", "pause"]
    if dependencies:
        kinds += ["query", "query", "end"]
    if depth < DEEPEST:
        kinds += {"loop": ["hop", "hop", "to_thread", "gather"], "hop": ["loop"]}.get(where, [])
    kind = random.choice(kinds)
    if kind == "pause":
        return Step(kind, ms=random.randint(1, 20))
    if kind == "end":
        of = random.randrange(len(dependencies))
        of_session = dependencies[of].kind != "connection"
        return Step(random.choice(("commit", "close")) if of_session else "commit", of)
    if kind == "query":
        return Step(kind, random.randrange(len(dependencies)))
    if kind == "own":
        if depth == DEEPEST or random.random() < 0.6:
            return Step(kind)
        return Step(kind, within=(_steps(random, dependencies, where, depth + 1),))
    if kind == "gather":
        return Step(kind, within=tuple(_steps(random, (), "hop", depth + 1) for _ in range(2)))
    there = {"hop": "hop", "to_thread": "executor", "loop": "loop"}[kind]
    return Step(kind, within=(_steps(random, dependencies, there, depth + 1),))


def _most(steps: Iterable[Step]) -> int:
    return max((step.most for step in steps), default=0)


def _shown(steps: Iterable[Step]) -> str:
    return ", ".join(map(str, steps))
