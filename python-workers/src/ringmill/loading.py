"""Finds the UDF that a pipeline file means by ``module:name``.

The module is imported from the pipeline file's directory first, then from wherever Python looks. Modules of
another pipeline's directory that happen to have the same name are forgotten, so that one ``ringmill check`` can
describe several.
"""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches

from .errors import LoadError
from .udf import Declaration, declaration_of

__all__ = ["load"]

_directory: str | None = None
"""The directory that stands first in sys.path on behalf of :func:`load`."""


def load(function: str, directory: str) -> Declaration:
    """Import ``function`` (``"module:name"``, where name may be dotted) and return what ``@rm.udf`` declared of it.

    Raises :class:`LoadError` if there is no such module, name or declaration; whatever the module itself raises
    passes through.
    """
    module_name, colon, attribute = function.partition(":")
    if not (colon and attribute and module_name) or module_name.startswith("."):
        raise LoadError(f"{function!r} is not of the form module:function")
    _put_first(os.path.abspath(directory))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # a module that the UDF's module imports
        raise LoadError(f"no module {module_name!r} in {directory} or on Python's path") from None
    target: object = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise LoadError(f"module {module_name!r} has no {part!r}{_suggestion(part, target)}")
        target = getattr(target, part)
    declaration = declaration_of(target)
    if declaration is None:
        raise LoadError(f"{function} is not a UDF: decorate it with @rm.udf(outputs={{...}})")
    return declaration


def _put_first(directory: str) -> None:
    global _directory
    if _directory == directory:
        return
    if _directory is not None:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and os.path.abspath(file).startswith(_directory + os.sep):
                del sys.modules[name]
        if sys.path and sys.path[0] == _directory:
            del sys.path[0]
    sys.path.insert(0, directory)
    importlib.invalidate_caches()
    _directory = directory


def _suggestion(name: str, target: object) -> str:
    declared = [other for other, value in vars(target).items() if declaration_of(value) is not None]
    close = get_close_matches(name, declared, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; its UDFs are {', '.join(declared)}" if declared else ""
