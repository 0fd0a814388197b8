"""`doctor --app`: what it finds in an app, each time in a process of its own."""

from __future__ import annotations

import json

import pytest

from support import run

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


def doctor(python, folder, *words):
    return run(python, "-m", "fastapi_overflow", "doctor", *words, timeout=60, cwd=folder)


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
        sizes, health = app["advice"]
        assert "25 threads can only ever wait. FASTAPI_OVERFLOW_LIMIT=17" in sizes
        assert health.startswith("/healthz looks like a health check")

    def test_text(self, wheel_python, shop):
        """The same for people."""
        shown = doctor(wheel_python, shop, "--app", "shop:app").stdout
        assert "app       shop:app: 2 of 7 routes need threads" in shown
        assert "\nadvice    limit 40" in shown
        assert "secret" not in shown

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
