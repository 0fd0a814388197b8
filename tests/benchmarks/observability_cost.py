"""What it costs a hop that it is counted: instructions per hop, with the counting and without.

Run by hand, on Linux with valgrind: `python tests/benchmarks/observability_cost.py`. It reports and
asserts nothing. "Without" is a copy of the package from which every statement that touches the
counters has been removed. Instructions are counted for two numbers of hops, and the difference is
told, so the start of Python and the imports don't matter. The difference is taken of the limiter
alone, in one thread, where it can be repeated to a hundredth; it is told as a part of a whole hop.
"""

from __future__ import annotations

import ast
import compileall
import re
import shutil
import sys
import tempfile
from pathlib import Path

from shared import ROOT, run

PACKAGE = ROOT / "src" / "fastapi_overflow"
FEW, MANY = 100, 400

CHILD = """
import gc, sys
gc.disable()
sys.path.insert(0, sys.argv[1])
for name in [name for name in sys.modules if name.startswith("fastapi_overflow")]:
    del sys.modules[name]  # the installed one, which the interpreter's start has loaded
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("fastapi_over")]
import anyio, fastapi_overflow
assert fastapi_overflow.__file__.startswith(sys.argv[1])
from fastapi_overflow import run_in_threadpool
from fastapi_overflow._requests.limiters import current_limiter
from fastapi_overflow._requests.replacements import wrap_starlette_call
from fastapi_overflow._requests.lease_of_request import current_lease
how, scenario, hops = sys.argv[2], sys.argv[3], int(sys.argv[4])
if how == "listener":
    from fastapi_overflow._watching import observer
    class Nobody:
        def waited(self, seconds): pass
        used = waited
    observer.listen(Nobody())

async def hop():
    if how == "thread":
        return await run_in_threadpool(int)
    # The limiter alone: what threads do to the number of instructions is a matter of luck.
    pool = current_limiter().pool
    task = pool.current_task()
    waiter = pool.start_acquire(task, current_lease.get())
    if waiter is not None:
        await pool.wait(waiter)
    await anyio.lowlevel.checkpoint()
    pool.finish(task)

async def request(hops):
    async def app(scope, receive, send):
        assert current_lease.get() is not None
        for _ in range(hops):
            await hop()
    await wrap_starlette_call(app, None, ({"type": "http"}, None, None), {})

async def main():
    if scenario == "kept":
        await request(hops)
    elif scenario == "free":
        for _ in range(hops):
            await request(1)
    else:
        fastapi_overflow.set_thread_limit(3)
        async with anyio.create_task_group() as group:
            for _ in range(hops):
                group.start_soon(request, 1)

anyio.run(main)
"""

SCENARIOS = {
    "kept": "hops of one request, each in the token that its lease keeps",
    "free": "requests of one hop, each takes a free token",
    "wait": "requests of one hop, all at once at 3 threads: nearly all wait",
}


class WithoutCounters(ast.NodeTransformer):
    """Removes each simple statement, and each `if`, that touches the counters."""

    def generic_visit(self, node: ast.AST) -> ast.AST | None:
        simple = isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If)
        if simple and any(
            isinstance(part, ast.Attribute) and part.attr in ("counters", "since")
            for part in ast.walk(node)
        ):
            return None
        return super().generic_visit(node)


def instructions(folder: str, how: str, scenario: str, hops: int) -> int:
    command = [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, "-s", "-c", CHILD, folder, how, scenario, str(hops)),
    ]
    done = run(*command, timeout=300, env={"PYTHONHASHSEED": "0"}, cwd=folder, check=True)
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found, done.stderr
    return int(found[1].replace(",", ""))


def per_hop(folder: str, how: str, scenario: str) -> float:
    few, many = (instructions(folder, how, scenario, hops) for hops in (FEW, MANY))
    return (many - few) / (MANY - FEW)


def main() -> None:
    with tempfile.TemporaryDirectory() as counted, tempfile.TemporaryDirectory() as plain:
        for folder in (counted, plain):
            shutil.copytree(PACKAGE, Path(folder) / PACKAGE.name)
        for file in (Path(plain) / PACKAGE.name / "_threads").glob("*.py"):
            tree = WithoutCounters().visit(ast.parse(file.read_text()))
            file.write_text(ast.unparse(tree))
        for folder in (counted, plain):
            compileall.compile_dir(folder, quiet=1, force=True)
        for scenario, what in SCENARIOS.items():
            hop = min(per_hop(plain, "thread", scenario) for _ in range(2))
            print(f"{what}\n    a hop, thread and all, without counting: {hop:,.0f}", flush=True)
            limiter = per_hop(plain, "limiter", scenario)
            for how, label in (("limiter", "counted"), ("listener", "timed for a listener too")):
                more = per_hop(counted, how, scenario) - limiter
                print(f"    {label}: {more:+,.0f} instructions, {more / hop:+.2%}", flush=True)


if __name__ == "__main__":
    main()
