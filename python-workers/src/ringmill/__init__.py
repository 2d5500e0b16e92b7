"""Ringmill: Python functions over live event streams, in workers of a Rust core.

Write a UDF::

    import numpy as np, ringmill as rm

    @rm.udf(outputs={"score": rm.float64}, version=1)
    def anomaly_score(temperature: np.ndarray, mean: np.ndarray, std: np.ndarray):
        return (temperature - mean) / std

name it in a pipeline file, and test it with :mod:`ringmill.testing`. What a UDF may take and return is told at
:func:`udf`; the ``ringmill`` command runs pipelines.
"""

from ._reader import Batch, ListColumn, StringColumn
from .errors import DeclarationError, Disconnected, Full, LoadError, OutputError, Refused, Reject, Retry, SchemaError
from .producer import Producer, connect
from .sink import Sink
from .source import End, Rows, Source
from .state import State
from .types import (
    DataType,
    binary,
    bool_,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    list_,
    nullable,
    timestamp,
    uint8,
    uint16,
    uint32,
    uint64,
    utf8,
)
from .udf import udf

__all__ = [
    "Batch",
    "DataType",
    "DeclarationError",
    "Disconnected",
    "End",
    "Full",
    "ListColumn",
    "LoadError",
    "OutputError",
    "Producer",
    "Refused",
    "Reject",
    "Retry",
    "Rows",
    "SchemaError",
    "Sink",
    "Source",
    "State",
    "StringColumn",
    "binary",
    "bool_",
    "connect",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "list_",
    "nullable",
    "timestamp",
    "udf",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "utf8",
]
