"""The status page of a server that is gone, stuck, or several, and of a reader who wants to read.

In a real browser, with figures of the test's own.
"""

from __future__ import annotations

from status_tools import figures, look, short_of_connections, until_state
from support import PATIENCE


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
            sentence = window.text("#sentence")  # before it is answered, and says something else
        finally:
            page.let_go()
        assert sentence.startswith("No figures for 4.0 s: the server is down or")
        assert "its event loop stands still" in sentence
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
