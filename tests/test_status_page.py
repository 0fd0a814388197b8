"""What the status page says, in a real browser, with figures of the test's own."""

from __future__ import annotations

from status_tools import (
    connection,
    figures,
    look,
    pool,
    route,
    short_of_connections,
    until_state,
)

NONE = "\N{EN DASH}"


class TestVerdict:
    def test_first(self, window, page):
        """Whether it is stuck stands at the top, in a word and a sentence, and in the title."""
        page.figures = short_of_connections()
        look(window, page)
        assert window.text("#state") == "short of connections"
        assert window.text("#sentence").startswith("15 of 15 connections of postgresql+psycopg://")
        assert window.run("document.title") == "short of connections: threads and connections"

    def test_colours(self, window, page):
        """Each state has a colour too; those that need somebody look like no others."""
        look(window, page)
        colour = "getComputedStyle(document.getElementById('state')).backgroundColor"
        seen = []
        for state in ("ok", "short of threads", "stuck"):
            window.run(f"document.getElementById('verdict').dataset.state = '{state}'")
            seen.append(window.run(colour))
        assert len(set(seen)) == 3

    def test_read_out(self, window, page):
        """A screen reader says so when the state changes."""
        look(window, page)
        page.figures = short_of_connections()
        until_state(window, "short of connections")
        assert window.run("document.querySelector('[aria-live]').textContent").startswith(
            "short of connections. 15 of 15"
        )

    def test_not_read_out_again(self, window, page):
        """It doesn't read out each number that changes."""
        look(window, page)
        page.figures = figures(threads_in_use=17)
        window.until("document.getElementById('sentence').textContent.includes('17')", "17")
        assert "0 of 40" in window.text("[aria-live]")


class TestTables:
    def test_resources(self, window, page):
        """Threads and pools: how much is taken, how much of it idle, who waits for how long."""
        page.figures = short_of_connections(threads_beyond_limit=0)
        look(window, page)
        threads, connections = window.table("resources")
        assert threads == ["threads of the event loop", "7 of 40", NONE, "", "0", NONE]
        name = "postgresql+psycopg://app@db/shop"
        assert connections == [name, "15 of 15", "11", "", "22", "1.3 s"]

    def test_routes(self, window, page):
        """Routes: running, waiting for either, and how many connections they hold, idle or not."""
        page.figures = short_of_connections()
        look(window, page)
        assert window.table("routes") == [
            ["GET /orders/{id}", "3", "0", "22", "4", "0", "7 %", "8.2 s"],
            ["GET /stream", "0", "0", "0", "11", "11", "97 %", NONE],
            ["GET /health", "0", "0", "0", "0", "0", NONE, NONE],
        ]

    def test_matter_first(self, window, page):
        """A route that makes others wait isn't hidden behind many that do nothing."""
        page.figures = short_of_connections()
        quiet = {f"GET /{number}": route(requests=1000) for number in range(50)}
        page.figures["routes"] = {**quiet, **page.figures["routes"]}
        look(window, page)
        shown = [row[0] for row in window.table("routes")]
        assert shown[:2] == ["GET /orders/{id}", "GET /stream"]
        assert len(shown) == 12

    def test_show_all(self, window, page):
        """The others are a key away."""
        page.figures = figures(routes={f"GET /{number}": route() for number in range(50)})
        look(window, page)
        window.press("Tab")
        window.press("Tab")
        window.press("Enter")
        window.until("document.querySelectorAll('#routes tbody tr').length === 50", "all routes")

    def test_connections(self, window, page):
        """Who holds connections, since when, taken where and doing what; alike ones in one row."""
        page.figures = short_of_connections()
        page.figures["connections"] += [
            connection(method=None, route=None, line="jobs.py:3", doing="none", seconds=0.2),
            connection(line=None, doing="ended", is_async=True, seconds=200.0),
        ]
        look(window, page)
        name = "postgresql+psycopg://app@db/shop"
        orders = ["GET /orders/{id}", "shop/orders.py:41"]
        assert window.table("connections") == [
            ["GET /stream", "app/stream.py:12", "idle", "11", "30 s", name],
            [*orders, "running in a thread", "3", "0.4 s", name],
            [*orders, "on the event loop", "1", "0.4 s", name],
            ["no request", "jobs.py:3", "outside of any request", "1", "0.2 s", name],
            [
                *("GET /stream", NONE, "request has ended: a leak", "1", "3 min 20 s"),
                f"{name}, async",
            ],
        ]

    def test_leaks_stand_out(self, window, page):
        """A leak has another colour; a route of that name hasn't."""
        leaks = [connection(doing="ended"), connection(route="/leak")]
        page.figures = figures(pools=[pool(out=2)], connections=leaks)
        look(window, page)
        marked = "[...document.querySelectorAll('.alarm')].map(cell => cell.textContent)"
        assert window.run(marked) == ["request has ended: a leak"]

    def test_one_pool(self, window, page):
        """Where there is one pool its long name isn't repeated in each row."""
        page.figures = short_of_connections()
        look(window, page)
        shown = "document.querySelector('#connections td:last-child').getClientRects().length"
        assert window.run(shown) == 0
        page.figures = {**page.figures, "pools": [pool(), pool(pool="another")]}
        window.until(f"{shown} > 0", "the column")

    def test_nothing_yet(self, window, page):
        """Where there is nothing to show that is said, in no empty table."""
        look(window, page)
        assert "No request has come so far." in window.run("document.body.innerText")
        assert "Nobody has a connection." in window.run("document.body.innerText")

    def test_texts_are_texts(self, window, page):
        """Markup in what comes from the app is shown as it is."""
        evil = "<img src=x onerror=alert(1)><b>"
        page.figures = figures(
            routes={evil: route(running=1)},
            pools=[pool(pool=evil, out=15, waiting=3, longest_wait=9.0)],
            connections=[connection(pool=evil, route=evil, line=evil, doing=evil)],
        )
        look(window, page)
        assert window.table("routes")[0][0] == evil
        assert window.run("document.querySelectorAll('img, main td b, main th b').length") == 0
        assert evil in window.text("#sentence")
