"""How the status page looks: on each screen, in each scheme, to each reader, while it goes on.

In a real browser, with figures of the test's own.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from status_tools import connection, look, pool, route, short_of_connections

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

    @pytest.mark.parametrize("width", [1200, 360])
    def test_for_a_screen_reader(self, window, crowded, width):
        """Tables are tables with headers, also where they look like cards."""
        look(window, crowded, width=width)
        nodes = window.call("Accessibility.getFullAXTree")["nodes"]
        roles = [node["role"]["value"] for node in nodes if not node["ignored"]]
        assert roles.count("table") == 3
        assert roles.count("columnheader") == 6 + 8 + 6
        assert roles.count("rowheader") == roles.count("row") - 3


def first_pixel(png: Path) -> tuple[int, ...]:
    """Return red, green and blue of the top left pixel: in a first row no filter changes it."""
    data, compressed = png.read_bytes()[8:], b""
    while data:
        size = int.from_bytes(data[:4], "big")
        if data[4:8] == b"IDAT":
            compressed += data[8 : 8 + size]
        data = data[size + 12 :]
    return tuple(zlib.decompress(compressed)[1:4])
