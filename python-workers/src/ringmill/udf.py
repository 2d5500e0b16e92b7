"""``@rm.udf``: says what a function or class takes and returns, and checks at once that it can be run.

The decorated object is returned unchanged (so it is called from a test like any function); what was declared
hangs on it as ``__ringmill__`` and is read by the worker, by ``ringmill.testing`` and by ``ringmill check``.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from . import types
from ._reader import Batch, ListColumn, StringColumn
from .errors import DeclarationError, SchemaError
from .state import State, StateField, state_field
from .types import DataType

__all__ = ["Declaration", "Field", "declaration_of", "udf"]

_T = TypeVar("_T", bound=Callable[..., Any])
_ATTRIBUTE = "__ringmill__"
_TIMESTAMPS = tuple(f"timestamp[{unit}]" for unit in ("s", "ms", "us", "ns"))


@dataclass(frozen=True, slots=True)
class Field:
    """One column: its name and type."""

    name: str
    type: DataType


@dataclass(frozen=True, slots=True)
class Declaration:
    """Everything that is known of a UDF before it runs."""

    target: Callable[..., Any]
    """The function, or the class."""
    name: str
    module: str
    version: int
    kind: Literal["function", "class"]
    mode: Literal["columns", "batch"]
    """Whether it takes columns by name, or one :class:`ringmill.Batch`."""
    arguments: tuple[str, ...]
    """Column names in the order of the parameters; empty in batch mode."""
    out: Literal["none", "positional", "keyword"]
    """How the parameter ``out`` is passed; a positional one comes last."""
    outputs: tuple[Field, ...]
    accepts: Mapping[str, tuple[str, ...]]
    """For some columns, the names of the types that the UDF takes."""
    state: tuple[StateField, ...]
    """What the core keeps for each key; given with the columns and returned after the outputs."""
    has_snapshot: bool
    """Whether it is a class with ``snapshot()`` and ``restore()``."""

    @property
    def returned(self) -> tuple[Field, ...]:
        """All columns that a call returns: the outputs, then the new state."""
        return (*self.outputs, *(Field(field.name, field.type) for field in self.state))

    def instantiate(self) -> Callable[..., Any]:
        """What to call for each batch: the function, or a new instance after its ``setup()``."""
        if self.kind == "function":
            return self.target
        instance: Any = self.target()
        setup = getattr(instance, "setup", None)
        if setup is not None:
            setup()
        return typing.cast("Callable[..., Any]", instance)

    def check_input(self, fields: Mapping[str, DataType]) -> None:
        """Raise SchemaError, naming every misfit, unless the UDF can be given these columns."""
        problems = []
        for column in dict.fromkeys((*self.arguments, *self.accepts)):
            given = fields.get(column)
            if given is None:
                has = ", ".join(f"{name}: {data_type}" for name, data_type in fields.items()) or "no columns"
                problems.append(f"column {column!r} is missing (its input has {has})")
            elif column in self.accepts and given.name not in self.accepts[column]:
                expected = " or ".join(self.accepts[column])
                problems.append(f"column {column!r}: expected {expected}, got {given}")
        if problems:
            raise SchemaError(f"UDF {self.name}: " + "; ".join(problems))


def udf(
    *args: Any,
    outputs: Mapping[str, DataType] | None = None,
    inputs: Mapping[str, DataType] | None = None,
    state: Mapping[str, DataType | State] | None = None,
    version: int = 1,
) -> Callable[[_T], _T]:
    """Declare a UDF.

    A function's positional parameters are column names, each given as a read-only array (:class:`numpy.ndarray`;
    :class:`numpy.ma.MaskedArray` for a nullable column; :class:`ringmill.StringColumn`,
    :class:`ringmill.ListColumn`). A function may instead have one parameter annotated ``rm.Batch``. A parameter
    called ``out`` is given writable views of the result (one array, or a dict of them if there are several
    outputs). Keyword-only parameters with defaults are left alone. A class needs ``__call__`` with such
    parameters, and may have ``setup()``, which runs once in each worker. It may also have ``snapshot(self) -> bytes``
    and ``restore(self, state: bytes)``: then what it has learnt is part of every checkpoint.

    ``outputs`` maps the columns that the UDF adds to their types. ``inputs`` optionally fixes the types of input
    columns; annotations like ``npt.NDArray[np.float64]`` do the same. Increase ``version`` when results change.

    ``state`` maps columns that the core keeps for each key (the pipeline says of which columns, ``key = [...]``) to their
    types, which have a fixed width. The UDF is given them like input columns, as they were before the row, and returns
    them like outputs, as they are after it. A key is never twice in one batch. See :class:`ringmill.State`.

    Raises :class:`DeclarationError` at once for anything that could not run.
    """
    if args:
        raise DeclarationError("@rm.udf needs its outputs: write @rm.udf(outputs={'score': rm.float64})")

    def decorate(target: _T) -> _T:
        setattr(target, _ATTRIBUTE, _declare(target, outputs, inputs, state, version))
        return target

    return decorate


def declaration_of(target: object) -> Declaration | None:
    """What ``@rm.udf`` declared of ``target`` (a function, a class or an instance of it), or None."""
    # Not getattr: a subclass of a declared class is not itself declared, since its __call__ may differ.
    for holder in (target, type(target)):
        declared = getattr(holder, "__dict__", {}).get(_ATTRIBUTE)
        if isinstance(declared, Declaration):
            return declared
    return None


def _declare(
    target: Callable[..., Any],
    outputs: Mapping[str, DataType] | None,
    inputs: Mapping[str, DataType] | None,
    state: Mapping[str, DataType | State] | None,
    version: int,
) -> Declaration:
    name = getattr(target, "__qualname__", repr(target))
    fields = _check_outputs(name, outputs)
    states = _check_state(name, state, fields)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DeclarationError(f"{name}: version= must be an integer of at least 1, got {version!r}")
    called = _called_function(name, target)
    mode, arguments, out, accepts = _read_signature(name, called, is_method=isinstance(target, type))
    if out != "none":
        for field in fields:
            if _is_variable(field.type):
                raise DeclarationError(
                    f"{name}: the parameter out needs outputs of fixed width, but {field.name!r} is {field.type}; "
                    "return the column instead"
                )
    for field in fields:
        if field.name in arguments:
            raise DeclarationError(f"{name}: output {field.name!r} has the name of an input column; choose another")
    accepts.update(_check_inputs(name, inputs, mode, arguments))
    for kept in states:
        if mode == "columns" and kept.name not in arguments:
            raise DeclarationError(f"{name}: state= names {kept.name!r}, but there is no such parameter")
        taken = accepts.pop(kept.name, (kept.type.name,))
        if kept.type.name not in taken:
            expected = " or ".join(taken)
            raise DeclarationError(f"{name}: state= gives {kept.name!r} the type {kept.type}, but its parameter takes {expected}")
    return Declaration(
        target=target,
        name=name,
        module=getattr(target, "__module__", ""),
        version=version,
        kind="class" if isinstance(target, type) else "function",
        mode=mode,
        arguments=arguments,
        out=out,
        outputs=fields,
        accepts=accepts,
        state=states,
        has_snapshot=isinstance(target, type) and _check_snapshot(name, target),
    )


def _check_state(name: str, state: Mapping[str, DataType | State] | None, outputs: tuple[Field, ...]) -> tuple[StateField, ...]:
    if state is None:
        return ()
    if not isinstance(state, Mapping):
        raise DeclarationError(f"{name}: state= must be a dict of column name to type, got {state!r}")
    if not state:
        raise DeclarationError(f"{name}: state= is empty; leave it out")
    fields = []
    for key, value in state.items():
        column = _check_column(name, "state", key)
        if any(field.name == column for field in outputs):
            raise DeclarationError(f"{name}: {column!r} is in outputs= and in state=; what is kept needs a name of its own")
        given = value if isinstance(value, State) else State(_check_type(name, "state", key, value))
        try:
            fields.append(state_field(column, given))
        except (TypeError, ValueError) as error:
            raise DeclarationError(f"{name}: state= of {column!r}: {error}") from None
    return tuple(fields)


def _check_outputs(name: str, outputs: Mapping[str, DataType] | None) -> tuple[Field, ...]:
    if outputs is None:
        raise DeclarationError(f"{name}: outputs= is missing: write @rm.udf(outputs={{'score': rm.float64}})")
    if not isinstance(outputs, Mapping):
        raise DeclarationError(f"{name}: outputs= must be a dict of column name to type, got {outputs!r}")
    if not outputs:
        raise DeclarationError(f"{name}: outputs= is empty: a UDF returns at least one column")
    return tuple(
        Field(_check_column(name, "outputs", key), _check_type(name, "outputs", key, value)) for key, value in outputs.items()
    )


def _check_inputs(
    name: str, inputs: Mapping[str, DataType] | None, mode: str, arguments: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    if inputs is None:
        return {}
    if not isinstance(inputs, Mapping):
        raise DeclarationError(f"{name}: inputs= must be a dict of column name to type, got {inputs!r}")
    accepts: dict[str, tuple[str, ...]] = {}
    for key, value in inputs.items():
        column = _check_column(name, "inputs", key)
        if mode == "columns" and column not in arguments:
            raise DeclarationError(f"{name}: inputs= names {column!r}, but there is no such parameter")
        accepts[column] = (_check_type(name, "inputs", key, value).name,)
    return accepts


def _check_column(name: str, where: str, column: object) -> str:
    if not isinstance(column, str) or not column:
        raise DeclarationError(f"{name}: a column name in {where}= must be a non-empty str, got {column!r}")
    return column


def _check_type(name: str, where: str, column: str, data_type: object) -> DataType:
    if isinstance(data_type, DataType):
        return data_type
    hint = ""
    try:
        numpy_name = np.dtype(data_type).name  # type: ignore[call-overload]
        if hasattr(types, numpy_name) or numpy_name == "bool":
            hint = f"; did you mean rm.{'bool_' if numpy_name == 'bool' else numpy_name}?"
        elif numpy_name.startswith("str"):
            hint = "; did you mean rm.utf8?"
    except TypeError:
        if data_type is types.timestamp:
            hint = '; call it: rm.timestamp("ms")'
        elif data_type is types.list_:
            hint = "; call it: rm.list_(rm.float64)"
    raise DeclarationError(f"{name}: {where}= must give {column!r} a ringmill type such as rm.float64, got {data_type!r}{hint}")


def _called_function(name: str, target: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose parameters count: the target itself, or the ``__call__`` of a class."""
    if isinstance(target, type):
        called = target.__dict__.get("__call__") or getattr(target, "__call__", None)  # noqa: B004
        if not inspect.isfunction(called):
            raise DeclarationError(f"{name}: a class UDF needs a method __call__(self, ...)")
        _check_setup(name, target)
    elif inspect.isfunction(target):
        called = target
    else:
        raise DeclarationError(f"@rm.udf goes on a function or a class, got {target!r}")
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise DeclarationError(f"{name}: a UDF is called once for each batch and cannot be async")
    if inspect.isgeneratorfunction(called):
        raise DeclarationError(f"{name}: a UDF returns whole columns and cannot be a generator (it has a yield)")
    return called


def _check_setup(name: str, target: type) -> None:
    for method in ("__init__", "setup"):
        function = getattr(target, method, None)
        if not inspect.isfunction(function):
            continue
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise DeclarationError(f"{name}: {method}() is called without arguments, but needs {parameter.name!r}")
    if inspect.iscoroutinefunction(getattr(target, "setup", None)):
        raise DeclarationError(f"{name}: setup() cannot be async")


def _check_snapshot(name: str, target: type) -> bool:
    """Whether the class can be snapshot; a half of it is a mistake."""
    there = [method for method in ("snapshot", "restore") if callable(getattr(target, method, None))]
    if not there:
        return False
    if len(there) == 1:
        other = "restore(self, state)" if there == ["snapshot"] else "snapshot(self)"
        raise DeclarationError(f"{name}: {there[0]}() is nothing without {other}")
    for method, wanted in (("snapshot", 0), ("restore", 1)):
        function = getattr(target, method)
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{name}: {method}() cannot be async")
        if not inspect.isfunction(function):
            continue
        try:
            inspect.signature(function).bind(*[None] * (1 + wanted))
        except TypeError:
            form = "snapshot(self) -> bytes" if method == "snapshot" else "restore(self, state: bytes) -> None"
            raise DeclarationError(f"{name}: {method}() is called as {form}") from None
    return True


def _read_signature(
    name: str, called: Callable[..., Any], *, is_method: bool
) -> tuple[Literal["columns", "batch"], tuple[str, ...], Literal["none", "positional", "keyword"], dict[str, tuple[str, ...]]]:
    parameters = list(inspect.signature(called).parameters.values())
    if is_method:
        parameters = parameters[1:]
    hints = _annotations(called)
    columns: list[str] = []
    batches: list[str] = []
    accepts: dict[str, tuple[str, ...]] = {}
    out: Literal["none", "positional", "keyword"] = "none"
    for position, parameter in enumerate(parameters):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else "**"
            raise DeclarationError(
                f"{name}: {stars}{parameter.name} names no column; write the columns out, or take one rm.Batch"
            )
        if parameter.name == "out":
            keyword_only = parameter.kind is parameter.KEYWORD_ONLY
            if not keyword_only and any(p.kind is not p.KEYWORD_ONLY for p in parameters[position + 1 :]):
                raise DeclarationError(f"{name}: the parameter out comes last, or after a *")
            out = "keyword" if keyword_only else "positional"
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise DeclarationError(
                    f"{name}: keyword-only parameter {parameter.name!r} needs a default (only out is passed by keyword)"
                )
        elif parameter.default is not parameter.empty:
            raise DeclarationError(
                f"{name}: parameter {parameter.name!r} has a default, but columns have none; "
                "put a * before it to make it a constant"
            )
        elif _is_batch(hints.get(parameter.name)):
            batches.append(parameter.name)
        else:
            columns.append(parameter.name)
            types_taken = _types_of(hints.get(parameter.name))
            if types_taken:
                accepts[parameter.name] = types_taken
    if batches and (len(batches) > 1 or columns):
        raise DeclarationError(f"{name}: a UDF takes either columns or one rm.Batch, not both ({', '.join(columns + batches)})")
    if not batches and not columns:
        raise DeclarationError(f"{name}: it has no parameters: name the columns it needs, or take one rm.Batch")
    return ("batch" if batches else "columns"), tuple(columns), out, accepts


def _annotations(called: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as objects; those that cannot be evaluated here (yet) stay text."""
    try:
        return inspect.get_annotations(called, eval_str=True)
    except Exception:  # names that exist for the type checker only
        return inspect.get_annotations(called)


def _is_batch(annotation: object) -> bool:
    if isinstance(annotation, str):
        return annotation.strip("'\" ").split(".")[-1] == "Batch"
    return annotation is Batch


def _types_of(annotation: object) -> tuple[str, ...]:
    """The column types that an annotation admits; nothing if it says nothing."""
    if annotation is StringColumn:
        return ("utf8", "binary")
    if annotation is ListColumn:
        return tuple(f"list[{data_type.name}]" for data_type in types._FIXED) + tuple(f"list[{name}]" for name in _TIMESTAMPS)
    if typing.get_origin(annotation) is np.ndarray:
        arguments = typing.get_args(annotation)
        if len(arguments) == 2 and typing.get_origin(arguments[1]) is np.dtype:
            return _types_of_scalar(typing.get_args(arguments[1])[0])
    return ()


def _types_of_scalar(scalar: object) -> tuple[str, ...]:
    if not isinstance(scalar, type) or not issubclass(scalar, np.generic) or scalar is np.generic:
        return ()
    names = [data_type.name for data_type in types._FIXED if issubclass(np.dtype(data_type.name).type, scalar)]
    if issubclass(np.bool_, scalar):
        names.append("bool")
    if issubclass(np.datetime64, scalar):
        names.extend(_TIMESTAMPS)
    return tuple(names)


def _is_variable(data_type: DataType) -> bool:
    return data_type.name in ("utf8", "binary") or data_type.name.startswith("list[")
