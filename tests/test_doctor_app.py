"""`doctor --app`: what it finds in an app, each time in a process of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support import run

TESTS = Path(__file__).parent

SHOP = """
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine

engine = create_engine("postgresql+psycopg://shop:secret@db/shop")
app = FastAPI()

def get_db():
    yield

@app.get("/orders")
def orders(db=Depends(get_db)): ...

@app.get("/healthz")
def healthz(): ...

@app.get("/about")
async def about(): ...

def create_app():
    return app
"""


@pytest.fixture
def shop(tmp_path):
    """A folder with the app."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "loud.py").write_text("from shop import app; print('loading')")
    (tmp_path / "leaves.py").write_text("import sys; sys.exit('DATABASE_URL is not set')")
    (tmp_path / "broken.py").write_text("import shop\nraise KeyError('DATABASE_URL')")
    return tmp_path


def doctor(python, folder, *words, **environ):
    return run(
        python, "-m", "fastapi_overflow", "doctor", *words, timeout=60, cwd=folder, env=environ
    )


class TestApp:
    def test_report(self, wheel_python, shop):
        """It lists what needs threads, the connection pools, and the advice."""
        done = doctor(wheel_python, shop, "--app", "shop:app", "--json")
        assert done.returncode == 0, done.stderr
        app = json.loads(done.stdout)["app"]
        assert app["in_threads"] == [
            "GET /orders  orders; dependencies: get_db (yield)",
            "GET /healthz  healthz",
        ]
        (pool,) = app["connection_pools"]
        assert pool.endswith("@db/shop: QueuePool 5+10")
        (health,) = app["advice"]  # the limit fits: requests wait before they begin
        assert health.startswith("/healthz looks like a health check")
        assert "healthz is sync, shop.py:15" in health

    def test_text(self, wheel_python, shop):
        """The same for people."""
        shown = doctor(wheel_python, shop, "--app", "shop:app").stdout
        assert "app       shop:app: 2 of 7 routes need threads" in shown
        assert "\nadvice    /healthz looks like" in shown
        assert "secret" not in shown

    def test_not_governed(self, wheel_python, shop):
        """Where pools are as without the package, threads can only wait, and it says so."""
        done = doctor(
            wheel_python, shop, "--app", "shop:app", "--json", FASTAPI_OVERFLOW_CONNECTIONS="0"
        )
        sizes, _ = json.loads(done.stdout)["app"]["advice"]
        assert "25 threads can only ever wait. FASTAPI_OVERFLOW_LIMIT=17" in sizes

    def test_workers(self, wheel_python, shop):
        """It says how many connections all workers may open."""
        done = doctor(wheel_python, shop, "--app", "shop:app", WEB_CONCURRENCY="3")
        assert "@db/shop: up to 45 connections, 3 workers (WEB_CONCURRENCY) x" in done.stdout

    def test_what_the_app_prints(self, wheel_python, shop):
        """What the app prints when it is imported goes to stderr: stdout is doctor's JSON."""
        done = doctor(wheel_python, shop, "--app", "loud:app", "--json")
        assert json.loads(done.stdout)["app"]["name"] == "loud:app"
        assert done.stderr == "loading\n"

    def test_no_app(self, wheel_python, shop):
        """Without --app no app is looked at."""
        assert "app" not in json.loads(doctor(wheel_python, shop, "--json").stdout)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("nowhere:app", "No module named 'nowhere'"),
            ("shop:nothing", "has no attribute 'nothing'"),
            ("shop:create_app", "it is a function, not a Starlette or FastAPI app"),
            ("shop", "must be given as MODULE:ATTRIBUTE, got 'shop'"),
            ("broken:app", "KeyError: 'DATABASE_URL'"),
            ("leaves:app", "SystemExit: DATABASE_URL is not set"),
        ],
    )
    def test_cannot_be_looked_at(self, wheel_python, shop, name, why):
        """Where there is no such app, it says why, and the rest of the report is there."""
        done = doctor(wheel_python, shop, "--app", name)
        assert done.returncode == 2
        assert f"{name} can't be looked at" in done.stdout
        assert why in done.stdout
        assert "is protected" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr


class TestFortyRoutes:
    def test_faults(self, wheel_python):
        """In an app of forty routes it names each of the four faulty ones, and nothing else."""
        done = doctor(wheel_python, TESTS, "--app", "faulty_shop.main:app", "--json")
        app = json.loads(done.stdout)["app"]
        assert len(app["routes"]) == 40
        lines = (TESTS / "faulty_shop/main.py").read_text().splitlines()
        planted = [number for number, line in enumerate(lines, 1) if "# fault" in line]
        said = {re.search(r"main\.py:(\d+)", text)[1]: text for text in app["advice"]}
        assert len(said) == len(app["advice"])
        assert sorted(map(int, said)) == planted
        on_loop, two, stream, socket = (said[str(line)] for line in planted)
        assert "read_user" in on_loop
        assert "Make it `def`" in on_loop
        assert "read_audit" in two
        assert "must have 41 connections" in two
        assert "export_all" in stream
        assert 'scope="function"' in stream
        assert "feed" in socket
        assert "Open a session for each message" in socket
