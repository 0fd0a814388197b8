"""Serve one of the apps, once for each line that arrives: the parent of a contestant's servers.

Run in the contestant's environment. Starting uvicorn and importing FastAPI takes longer than many a
measurement, so this process imports them once and forks a server for each: a fresh process with a
fresh app, thread pool and engine. It must never run an event loop or a thread of its own.

A line on stdin: `{"app": ..., "port": ..., "env": {...}}`; the answer is the server's process id.
"""

from __future__ import annotations

import json
import os
import sys

import fastapi  # noqa: F401
import sqlalchemy.dialects.postgresql.psycopg
import sqlalchemy.dialects.sqlite
import sqlalchemy.ext.asyncio
import sqlalchemy.orm  # noqa: F401
import uvicorn


def serve(app: str, port: int, env: dict[str, str]) -> None:
    os.environ.update(env)
    uvicorn.run(
        f"{app}:app",
        host="127.0.0.1",
        port=port,
        access_log=False,
        log_level="critical",
        backlog=4096,
    )


def main() -> None:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            try:
                os.setsid()
                serve(**json.loads(line))
            finally:
                os._exit(1)
        print(pid, flush=True)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
