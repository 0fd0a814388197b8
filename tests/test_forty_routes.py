"""An app of forty routes under load: four planted faults are named, and nothing else.

Run by pytest: a real uvicorn with PostgreSQL, with the faults and without. `python tests/soak.py
--behaved --minutes 60` is the longer run without.
"""

import asyncio

from forty_tools import APP, client_of, load, served, told
from support import wait_until

SECONDS = 4.0


def line_of(mark):
    """Return the line of the app with this mark, as it is printed."""
    lines = APP.read_text().splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"# planted: {mark}")]
    return f"forty.py:{number}"


def test_faults_are_named(wheel_python, postgres_url, tmp_path):
    """A leak, an idle stream, a nested session and a query on the loop: each with its line."""

    async def main(url):
        async with client_of(url) as client:
            loading = asyncio.create_task(load(client, SECONDS))
            for fault in ("leak", *["nested", "loop"] * 3):
                assert (await client.get(f"/planted/{fault}")).status_code == 200
            assert set(await loading) == {200}
            # Now so many streams that nothing is left for others.
            streams = [client.get("/planted/stream") for _ in range(20)]
            await asyncio.gather(*streams, return_exceptions=True)

    with served(wheel_python, postgres_url, tmp_path, PLANTED="1") as url:
        asyncio.run(main(url))
        wait_until(lambda: len(told(tmp_path)) >= 4, "four records")
        records = told(tmp_path)

    found = {record["event"]: record for record in records}
    assert sorted(record["event"] for record in records) == [
        "connection_leaked",
        "connections_exhausted",
        "nested",
        "on_the_loop",
    ], [record["message"] for record in records]
    assert found["connection_leaked"]["route"] == "GET /planted/leak"
    assert found["connection_leaked"]["line"] == line_of("leak")
    assert found["nested"]["route"] == "GET /planted/nested"
    assert found["nested"]["lines"] == [
        line_of("nested, the first"),
        line_of("nested, the second"),
    ]
    assert found["on_the_loop"]["route"] == "GET /planted/loop"
    assert found["on_the_loop"]["line"] == line_of("loop")
    most, *others = found["connections_exhausted"]["holders"]
    assert (most["route"], most["line"]) == ("GET /planted/stream", line_of("stream"))
    assert most["idle"] == most["connections"]
    assert {other["route"] for other in others} <= {"GET /planted/leak"}
    for record in records:
        assert record["level"] == "WARNING"
        assert record["suppressed"] >= 0


def test_well_behaved(wheel_python, postgres_url, tmp_path):
    """The same app without them, under the same load, is told nothing of."""

    async def main(url):
        async with client_of(url) as client:
            return await load(client, SECONDS)

    with served(wheel_python, postgres_url, tmp_path) as url:
        statuses = asyncio.run(main(url))
        assert set(statuses) == {200}
        assert len(statuses) > 40
    assert [record["message"] for record in told(tmp_path)] == []
