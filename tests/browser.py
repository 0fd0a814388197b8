"""A real browser, headless, told what to do by the DevTools protocol.

Used by the tests of the status page. It must never wait without a limit, and never leave a browser
behind.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from support import PATIENCE, ChildHung, started, wait_until

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium found: apt-get install chromium"


def find() -> str:
    """Return the path of a browser; without one the test is skipped, but in CI it fails."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return found


class Browser:
    """One window of a browser.

    :ivar complaints: what the page did wrong: errors of its script, and of its policy
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its answer."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=PATIENCE))
            if told.get("id") == self._calls:
                assert "error" not in told, (method, told["error"])
                answer: dict[str, Any] = told["result"]
                return answer
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["params"]["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded":
            entry = told["params"]["entry"]
            if entry["level"] == "error" and entry["source"] != "network":
                self.complaints.append(entry["text"])

    def stop_clocks(self) -> None:
        """Have `Date.now()` stand still in pages to come, at what they have in `clock`."""
        script = "window.clock = 1e12; Date.now = () => window.clock"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def show(
        self, url: str, *, width: int = 1200, height: int = 900, scheme: str = "light"
    ) -> None:
        """Open a page in a window of this size, for who prefers this colour scheme."""
        self.resize(width, height)
        self.prefer(scheme)
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str, what: str) -> Any:
        """Wait until an expression in the page is true, and return its value."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.run(script)):
            if time.monotonic() > deadline:
                text = self.run("document.body.innerText")
                raise ChildHung(f"not within {PATIENCE} s: {what}; the page: {text[:2000]}")
            time.sleep(0.05)
        return found

    def text(self, selector: str) -> str:
        """Return the text of the first element that is found."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def table(self, place: str) -> list[list[str]]:
        """Return the texts of the table at `place`, row by row."""
        cells = "[...row.cells].map(cell => cell.textContent)"
        rows = f"document.querySelectorAll('#{place} tbody tr')"
        found: list[list[str]] = self.run(f"[...{rows}].map(row => {cells})")
        return found

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        text = {"Enter": "\r", "Tab": ""}[key]
        code = {"Enter": 13, "Tab": 9}[key]
        both = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **both)
        self.call("Input.dispatchKeyEvent", type="keyUp", **both)

    def picture(self, path: Path, whole: bool = True) -> Path:
        """Take a screenshot into a file."""
        told = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))
        return path


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with an empty profile, and end it with the block."""
    program = find()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        told = Path(profile, "DevToolsActivePort")
        command = (
            *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--remote-debugging-port=0"),
            *(f"--user-data-dir={profile}", "about:blank"),
        )
        with started(*command, env={"HOME": profile}) as process:
            wait_until(
                lambda: told.exists() and "\n" in told.read_text(),
                "a browser that listens",
                process,
            )
            port = told.read_text().split("\n")[0]
            no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with no_proxy.open(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
                (page,) = (each for each in json.load(answer) if each["type"] == "page")
            address = page["webSocketDebuggerUrl"]
            with connect(address, max_size=None, proxy=None, open_timeout=PATIENCE) as socket:
                yield Browser(socket)
