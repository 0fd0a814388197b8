"""The search for objects of a class: complete, and without a word to the objects."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from fastapi_overflow._watching.live_objects import instances_of


class Wanted:
    pass


class TestFound:
    def test_by_the_garbage_collector(self):
        """An object that only another object knows is found."""
        kept = [Wanted()]
        assert kept[0] in instances_of(Wanted)

    def test_once(self):
        """An object that has many names is found once."""
        module = ModuleType("names_it")
        module.one = module.two = kept = Wanted()
        sys.modules[module.__name__] = module
        try:
            assert instances_of(Wanted).count(kept) == 1
        finally:
            del sys.modules[module.__name__]

    def test_no_class(self):
        """Where something else has taken the place of a class there are no instances of it."""
        assert instances_of(None, False, len) == []


class TestLeftAlone:
    def test_lazy_module(self, tmp_path):
        """A module that is to be imported when it is first used is not imported by the search."""
        (tmp_path / "lazy_one.py").write_text("raise RuntimeError('imported')")
        spec = importlib.util.spec_from_file_location("lazy_one", tmp_path / "lazy_one.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = importlib.util.module_from_spec(spec)
        sys.modules["lazy_one"] = module
        try:
            spec.loader.exec_module(module)
            instances_of(Wanted)
        finally:
            del sys.modules["lazy_one"]

    def test_proxies(self):
        """An object is not asked what it stands for: that may fail outside of a request."""

        class Proxy:
            @property
            def __class__(self):
                raise LookupError("no request")

        kept = Proxy()
        sys.modules["proxy_module"] = kept
        try:
            assert not any(found is kept for found in instances_of(Wanted))
        finally:
            del sys.modules["proxy_module"]
