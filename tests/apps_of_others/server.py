"""An app's environment, and its server: made new, started as its users start it, and ended.

Called by `real_apps.py`. It must never wait without a limit, nor leave a process behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apps_of_others.load import ask_once, told
from apps_of_others.recipe import Ask, Recipe
from support import ChildFailed, ChildHung, free_port, make_venv, run, started, tail

INSTALL_TIMEOUT = 900  # seconds
PREPARE_TIMEOUT = 300
START_TIMEOUT = 180
OURS = "fastapi-overflow"

# Nothing asks, counts, colours or phones home.
QUIET = {"DO_NOT_TRACK": "1", "NO_COLOR": "1", "CI": "1"}


class Site:
    """An environment with an app, into which the package is put and from which it is taken."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.venv = folder / f"env-{recipe.project}"
        self.bin = self.venv / "bin"
        done = self.venv / "installed"
        if not done.exists():  # else of an earlier run, kept
            shutil.rmtree(self.venv, ignore_errors=True)
            make_venv(self.venv)
            self.pip("install", "--prefer-binary", recipe.name, *recipe.also)
            done.touch()

    def pip(self, *args: str | Path) -> None:
        """Call pip, of this environment."""
        pip = (self.bin / "python", "-m", "pip", "--disable-pip-version-check", "-q")
        run(*pip, *args, timeout=INSTALL_TIMEOUT, check=True)

    def versions(self) -> dict[str, str]:
        """Return what is installed, by name."""
        pip = (self.bin / "python", "-m", "pip", "--disable-pip-version-check")
        frozen = run(*pip, "freeze", timeout=INSTALL_TIMEOUT, check=True).stdout
        pairs = (line.partition("==") for line in frozen.splitlines() if "==" in line)
        return {name.lower().replace("_", "-"): version for name, _, version in pairs}

    def put_in(self, wheel: Path) -> None:
        """Install the package, as a user would: with what it needs.

        :raises ChildFailed: where an app in this environment is not protected then
        """
        self.pip("install", wheel)
        run(self.bin / OURS, "doctor", timeout=PREPARE_TIMEOUT, check=True)

    def take_out(self) -> None:
        """Remove the package, and nothing else."""
        self.pip("uninstall", "--yes", OURS)


class Server:
    """A running app; started anew on the same data by another `with server.running()`."""

    def __init__(self, site: Site, home: Path, postgres: str) -> None:
        self.site = site
        self.recipe = site.recipe
        self.port = free_port()
        self.home = home
        self.headers: Mapping[str, str] = {}
        self._places = {"bin": site.bin, "home": home, "port": self.port, "postgres": postgres}
        self._environ = {
            **QUIET,
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": f"{site.bin}{os.pathsep}{os.environ['PATH']}",
            **{name: self.filled(value) for name, value in self.recipe.environ.items()},
        }
        for name, text in self.recipe.files.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.filled(text))
        for command in self.recipe.prepare:
            run(
                *map(self.filled, command),
                timeout=PREPARE_TIMEOUT,
                env=self._environ,
                cwd=home,
                check=True,
            )

    def filled(self, text: str) -> str:
        """Return a recipe's text with its places filled in."""
        for name, value in self._places.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    @contextmanager
    def running(self, first: bool) -> Iterator[Any]:
        """Start the app, and end it after the block; gives the process, see `support.started`.

        :param first: log in, and add the data
        """
        command = map(self.filled, self.recipe.start)
        with started(*command, env=self._environ, cwd=self.home) as process:
            self.wait_until_up(process)
            try:
                if first and self.recipe.log_in:
                    self.headers = self.recipe.log_in(self.talk)
                if first and self.recipe.seed:
                    self.recipe.seed(self.talk)
                for ask in self.recipe.asks:
                    self.talk(ask)
                yield process
            except Exception as exc:
                raise ChildFailed(
                    f"{exc}\n---- the server's output\n{tail(process.output)}"
                ) from exc

    def wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the app answers.

        :raises ChildFailed: where it ends before
        :raises ChildHung: after `START_TIMEOUT` seconds
        """
        ready = Ask(self.recipe.ready)
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                if ask_once(self.port, ask=ready, headers={})[0] == "200":
                    return
            output = f"---- its output\n{tail(process.output)}"  # type: ignore[attr-defined]
            if process.poll() is not None:
                raise ChildFailed(f"{self.recipe.name} ended: {process.returncode}\n{output}")
            if time.monotonic() > deadline:
                raise ChildHung(f"{self.recipe.name}: not up in {START_TIMEOUT} s\n{output}")
            time.sleep(0.2)

    def talk(self, ask: Ask) -> Any:
        """Send one request; return the JSON that it is answered with.

        :raises ChildFailed: where the answer is not 2xx: the recipe is wrong
        """
        status, body = ask_once(self.port, ask, self.headers)
        if status[:1] != "2":
            text = body[:500].decode(errors="replace")
            raise ChildFailed(f"{self.recipe.name}: {ask} is answered {status}: {text}")
        return told(body)
