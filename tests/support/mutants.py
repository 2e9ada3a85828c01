"""One-line faults in a module, for tests that must detect them: `mutate(monkeypatch, module, before, after, name)`.

The module's source is changed and executed separately, and one of its functions replaces the real one. A text that
is missing, or occurs twice, is an error: a mutant of code that has changed proves nothing.
"""

from __future__ import annotations

import inspect
import sys
from types import ModuleType

import pytest


def mutate(patch: pytest.MonkeyPatch, module: ModuleType, before: str, after: str, name: str) -> None:
    """Put *after* in place of *before* in the function *name* ("Node._drained") of *module*, or in a constant."""
    source = inspect.getsource(module)
    assert source.count(before) == 1, f"{before!r} is there {source.count(before)} times in {module.__name__}"
    aside = ModuleType(module.__name__)
    aside.__dict__["__file__"] = module.__file__
    # Dataclasses look for the module that they are made in.
    patch.setitem(sys.modules, module.__name__, aside)
    exec(compile(source.replace(before, after), module.__file__ or "", "exec"), aside.__dict__)
    patch.setitem(sys.modules, module.__name__, module)
    owner, _, attribute = name.rpartition(".")
    real = getattr(module, owner) if owner else module
    changed = getattr(aside, owner) if owner else aside
    patch.setattr(real, attribute, changed.__dict__[attribute])
