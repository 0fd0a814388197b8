"""SECURITY.md says word for word what runs at the start of Python: here it is held to that.

Run by pytest.
"""

import hashlib
import re
from pathlib import Path

import pytest

from support import run_python

ROOT = Path(__file__).parent.parent
FILES = ("fastapi_overflow.pth", "fastapi_overflow.start")


class TestSecurityText:
    @pytest.mark.parametrize("name", FILES)
    def test_line(self, name):
        """The shipped file is the line that the text quotes, and has the SHA-256 that it gives."""
        shipped = (ROOT / name).read_bytes()
        section = (ROOT / "SECURITY.md").read_text().split(f"`{name}`", 1)[1]
        quoted = re.search(r"```text\n(.*?)```", section, re.DOTALL)
        digest = re.search(r"SHA-256: `([0-9a-f]{64})`", section)
        assert quoted is not None
        assert digest is not None
        assert quoted[1].encode() == shipped
        assert digest[1] == hashlib.sha256(shipped).hexdigest()

    @pytest.mark.parametrize("name", FILES)
    def test_installed(self, wheel_python, name):
        """What the wheel installs is that file, to the byte."""
        code = (
            "import hashlib, pathlib, sysconfig;"
            f"file = pathlib.Path(sysconfig.get_path('purelib'), {name!r});"
            "print(hashlib.sha256(file.read_bytes()).hexdigest())"
        )
        printed = run_python(wheel_python, code, timeout=60).stdout.split()
        assert printed == [hashlib.sha256((ROOT / name).read_bytes()).hexdigest()]

    def test_imports(self, wheel_python):
        """At the start of Python two modules of the package are imported, and no other's."""
        code = (
            "import sys;"
            "print(*sorted(m for m in sys.modules"
            " if m.partition('.')[0] in ('fastapi_overflow', 'wrapt', 'anyio', 'starlette')))"
        )
        printed = run_python(wheel_python, code, timeout=60).stdout.split()
        assert printed == ["fastapi_overflow", "fastapi_overflow._startup"]

    def test_without_the_hook(self, own_environment):
        """With the two files deleted nothing runs at the start, and patch() still protects."""
        for name in FILES:
            (own_environment.site_packages / name).unlink()
        code = (
            "import sys; assert 'fastapi_overflow' not in sys.modules;"
            "import fastapi_overflow; assert not fastapi_overflow.patched();"
            "fastapi_overflow.patch(); print(fastapi_overflow.patched())"
        )
        assert own_environment.run(code).stdout.split() == ["True"]
