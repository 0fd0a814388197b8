"""The status page in a real browser, with figures of the test's own."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from browser import browser
from status_tools import connection, figures, pool, route, served, short_of_connections
from support import PATIENCE

NONE = "\N{EN DASH}"

# The element that needs most room, where one goes beyond the window or beyond what it stands in.
WIDEST = """(() => {
  const right = node => node.getBoundingClientRect().right;
  return [...document.querySelectorAll("main *")]
    .filter(node => node.getClientRects().length && !node.closest("thead, svg"))
    .filter(node => right(node) > document.documentElement.clientWidth + 1
                 || right(node) > right(node.closest("aside, #figures > div")) + 1)
    .map(node => node.outerHTML.slice(0, 200))[0] || "";
})()"""

CONTRAST = """(() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3)
    .map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const ground = node => { while (numbers(getComputedStyle(node).backgroundColor)[3] === 0)
    node = node.parentElement || document.body; return getComputedStyle(node).backgroundColor; };
  const ratio = (one, other) => (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
  return Math.min(...[...document.querySelectorAll("h1, strong, span, th, td, dt, dd, button")]
    .filter(node => node.textContent && node.getClientRects().length)
    .map(node => ratio(light(getComputedStyle(node).color), light(ground(node)))));
})()"""


@pytest.fixture(scope="module")
def window():
    with browser() as found:
        found.stop_clocks()  # nothing is late because the machine is slow
        yield found


@pytest.fixture
def page(monkeypatch):
    with served(monkeypatch) as found:
        yield found


@pytest.fixture
def crowded(page):
    """The page of an app with many routes, long names and all sorts of holders."""
    page.figures = told = short_of_connections(threads_in_use=40, waiting_first=7)
    for number in range(40):
        told["routes"][f"GET /{'very/long/' * 6}{{name}}/{number}"] = route(
            running=1, waiting_for_thread=100, seconds_held=1e4, seconds_idle=5e3, requests=10**6
        )
    told["pools"].append(pool(pool="x" * 90, capacity=None, out=10**4))
    told["connections"] += [
        connection(method=None, route=None, line=None, doing="none", seconds=0.2),
        connection(line="shop/" * 12 + "module.py:1234", doing="ended", seconds=4000.0),
    ]
    return page


def look(window, page, **how):
    """Open the page, and wait for what it shows first."""
    window.show(page.url, **how)
    window.until(f"document.getElementById('whose')?.textContent === 'process {4711}'", "figures")


def until_state(window, state):
    window.until(f"document.getElementById('verdict').dataset.state === '{state}'", state)


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

    @pytest.mark.parametrize("width", [1200, 360])
    def test_for_a_screen_reader(self, window, crowded, width):
        """Tables are tables with headers, also where they look like cards."""
        look(window, crowded, width=width)
        nodes = window.call("Accessibility.getFullAXTree")["nodes"]
        roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
        assert roles.count("table") == 3
        assert roles.count("columnheader") == 6 + 8 + 6
        assert roles.count("rowheader") == roles.count("row") - 3


class TestLooks:
    @pytest.mark.parametrize("width", [1600, 1200, 1090, 1000, 840, 820, 700, 480, 360, 320])
    def test_width(self, window, crowded, width):
        """Nothing is cut off and the page never scrolls sideways, on no screen."""
        look(window, crowded, width=width)
        assert window.run("document.documentElement.scrollWidth") <= width
        assert window.run(WIDEST) == ""

    def test_labels_on_a_phone(self, window, crowded):
        """Without a line of headers each number says what it is."""
        look(window, crowded, width=360)
        label = "getComputedStyle(document.querySelector('#routes td:nth-child(4)'), '::before')"
        assert window.run(f"{label}.content") == '"Wait for a connection"'

    def test_light_and_dark(self, window, page, tmp_path):
        """The page is bright in the light scheme, and not in the dark one."""
        corner = {}
        for scheme in ("light", "dark"):
            look(window, page, scheme=scheme)
            corner[scheme] = first_pixel(window.picture(tmp_path / f"{scheme}.png", whole=False))
        assert min(corner["light"]) > 200
        assert max(corner["dark"]) < 60

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_contrast(self, window, crowded, scheme):
        """Every text can be read: a contrast of 4.5 at least."""
        look(window, crowded, scheme=scheme)
        assert window.run(CONTRAST) >= 4.5

    def test_no_flicker(self, window, crowded):
        """An update leaves what hasn't changed untouched."""
        look(window, crowded)
        window.run("""
            window.touched = [];
            new MutationObserver(changes => touched.push(...changes.map(c => c.target.nodeName)))
                .observe(document.querySelector("main > div"), { subtree: true, childList: true });
            0""")
        drawn = "document.querySelector('svg .a').points.numberOfItems"
        before = window.run(drawn)
        window.until(f"{drawn} > {before} + 1", "two more looks")
        assert window.run("touched") == []

    def test_charts(self, window, crowded):
        """The charts go on with each look, and say in words what they show."""
        look(window, crowded)
        labels = window.run(
            "[...document.querySelectorAll('svg')].map(svg => svg.getAttribute('aria-label'))"
        )
        assert labels == [
            "Threads, now: taken 40, limit 40",
            "Connections, now: out 10015, idle 11, limit none",
            "Waiting, now: for a thread 7, for a connection 22",
        ]
        drawn = "document.querySelector('svg .a').points.numberOfItems"
        window.until(f"{drawn} > 3", "three looks")

    def test_policy(self, window, crowded):
        """Style and script are what the policy allows, and neither fails."""
        window.complaints.clear()
        look(window, crowded)
        window.until("document.querySelector('svg .a').points.numberOfItems > 2", "two looks")
        assert [each for each in window.complaints if "'data:,'" not in each] == []
        assert window.run("getComputedStyle(document.body).maxWidth") != "none"


class TestServerTrouble:
    def test_no_answer(self, window, page):
        """A server that is gone is told, with for how long, and what was last seen stays."""
        page.figures = short_of_connections()
        look(window, page)
        page.stop()
        until_state(window, "no answer")
        assert "is down or starts again" in window.text("#sentence")
        assert len(window.table("routes")) == 3

    def test_comes_back(self, window, page):
        """It goes on by itself when a server is there again, in a process of another number."""
        look(window, page)
        page.stop()
        until_state(window, "no answer")
        page.figures = figures(pid=4712)
        page.start()
        until_state(window, "ok")
        assert window.text("#whose") == "process 4712"

    def test_error(self, window, page):
        """An answer that is an error is told, with its status."""
        look(window, page)
        page.figures = RuntimeError("planted")
        until_state(window, "no answer")
        assert "the server answers with status 500" in window.text("#sentence")

    def test_something_else(self, window, page):
        """An answer that isn't the figures is told too, as a proxy's login may come."""
        look(window, page)
        page.figures = {**figures(), "pools": None}
        window.until("document.getElementById('state').textContent === 'no answer'", "no answer")

    def test_stuck_loop(self, window, page):
        """A server that takes the question and doesn't answer is told after three seconds."""
        look(window, page)
        page.hold()
        try:
            window.run("clock += 4000")
            until_state(window, "no answer")
        finally:
            page.let_go()
        assert window.text("#sentence").startswith("No figures for 4.0 s: the server is down or")
        assert "its event loop stands still" in window.text("#sentence")
        until_state(window, "ok")

    def test_several_processes(self, window, page):
        """Of several processes behind one address it stays with one while that answers."""
        look(window, page)
        window.run("""
            window.named = [];
            new MutationObserver(() => named.push($("whose").textContent))
                .observe($("whose"), { childList: true });
            0""")
        page.figures = figures(pid=4712, threads_in_use=33)
        page.asked.clear()
        assert page.asked.wait(PATIENCE)
        page.figures = figures(threads_in_use=1)
        window.until("$('sentence').textContent.includes('1 of 40')", "an answer of the first")
        assert window.run("named") == []

    def test_another_process(self, window, page):
        """Once that process hasn't answered for five seconds it goes on with another one."""
        look(window, page)
        page.figures = figures(pid=4712)
        window.run("clock += 6000")
        window.until("$('whose').textContent === 'process 4712'", "the other process")

    def test_pause(self, window, page):
        """It can be held to be read, by the keyboard too, and goes on."""
        look(window, page)
        window.press("Tab")
        window.press("Enter")
        assert window.run("document.activeElement.getAttribute('aria-pressed')") == "true"
        page.figures = short_of_connections()
        window.run("window.then = performance.now(); 0")
        window.until("performance.now() > then + 2500", "two looks that are not taken")
        assert window.text("#state") == "ok"
        window.press("Enter")
        until_state(window, "short of connections")


def first_pixel(png: Path) -> tuple[int, ...]:
    """Return red, green and blue of the top left pixel: in a first row no filter changes it."""
    data, compressed = png.read_bytes()[8:], b""
    while data:
        size = int.from_bytes(data[:4], "big")
        if data[4:8] == b"IDAT":
            compressed += data[8 : 8 + size]
        data = data[size + 12 :]
    return tuple(zlib.decompress(compressed)[1:4])
