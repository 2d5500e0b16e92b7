"""Finds the UDF, or the class, that a pipeline file means by ``module:name``.

The module is imported from the pipeline file's directory first, then from wherever Python looks. Modules of
another pipeline's directory that happen to have the same name are forgotten, so that one ``ringmill check`` can
describe several.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from .errors import LoadError
from .sink import Sink, check_sink
from .source import Source, check_source
from .udf import Declaration, declaration_of

__all__ = ["load", "load_sink", "load_source"]

_directory: str | None = None
"""The directory that stands first in sys.path on behalf of :func:`load`."""


def load(function: str, directory: str) -> Declaration:
    """Import ``function`` (``"module:name"``, where name may be dotted) and return what ``@rm.udf`` declared of it.

    Raises :class:`LoadError` if there is no such module, name or declaration; whatever the module itself raises
    passes through.
    """
    target = _find(function, directory, "UDFs", lambda value: declaration_of(value) is not None)
    declaration = declaration_of(target)
    if declaration is None:
        raise LoadError(f"{function} is not a UDF: decorate it with @rm.udf(outputs={{...}})")
    return declaration


def load_source(reference: str, directory: str, options: Mapping[str, Any]) -> type[Source]:
    """Import the class ``reference`` (``"module:Class"``), a source that takes these options.

    Raises :class:`LoadError` if there is none; whatever the module itself raises passes through.
    """
    return check_source(_find(reference, directory, "sources", _is_source), reference, options)


def load_sink(reference: str, directory: str, options: Mapping[str, Any]) -> type[Sink]:
    """Import the class ``reference`` (``"module:Class"``), a sink that takes these options.

    Raises :class:`LoadError` if there is none; whatever the module itself raises passes through.
    """
    return check_sink(_find(reference, directory, "sinks", _is_sink), reference, options)


def _is_sink(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Sink) and value is not Sink


def _is_source(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Source) and value is not Source


def _find(function: str, directory: str, what: str, is_meant: Callable[[object], bool]) -> object:
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
            raise LoadError(f"module {module_name!r} has no {part!r}{_suggestion(part, target, what, is_meant)}")
        target = getattr(target, part)
    return target


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


def _suggestion(name: str, target: object, what: str, is_meant: Callable[[object], bool]) -> str:
    declared = [other for other, value in vars(target).items() if is_meant(value)]
    close = get_close_matches(name, declared, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; its {what} are {', '.join(declared)}" if declared else ""
