"""The app object as servers see it: patched, it is called and looked at like any other.

Run by pytest.
"""

import inspect

import pytest
from starlette.applications import Starlette

import fastapi_overflow

fastapi_overflow.patch()


class TestCall:
    def test_without_arguments(self):
        """Called without arguments it raises at once: so uvicorn tells an app from a factory."""
        with pytest.raises(TypeError, match="missing 3 required positional arguments"):
            Starlette()()

    @pytest.mark.parametrize("arguments", [{"scope": {"type": "http"}}, {"a": 1, "b": 2, "c": 3}])
    def test_wrong_arguments(self, arguments):
        """With wrong arguments too."""
        with pytest.raises(TypeError):
            Starlette()(**arguments)

    def test_is_async(self):
        """It passes for the async function that it stands in for."""
        assert inspect.iscoroutinefunction(Starlette().__call__)
        assert list(inspect.signature(Starlette().__call__).parameters) == [
            "scope",
            "receive",
            "send",
        ]
