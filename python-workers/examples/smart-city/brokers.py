"""Kafka brokers for a demo: those that librdkafka is tested with, inside of this process.

They speak the protocol over real connections, and they are not Apache Kafka: each partition keeps its newest 5 MiB or
100,000 messages in memory, and all is gone with the process.
"""

import ctypes
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import cimpl

_PRODUCER = 0
_ERRORS = b"3"
"""A client that knows no brokers is worth a warning, but here it makes them."""


def _librdkafka() -> ctypes.CDLL:
    """The library that confluent_kafka has brought and loaded; its brokers have no interface in Python."""
    assert cimpl
    with open("/proc/self/maps", encoding="ascii") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "librdkafka" in line}
    library = ctypes.CDLL(paths.pop())
    pointer = ctypes.c_void_p
    for name, result, arguments in [
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_conf_set", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_new", pointer, [ctypes.c_int, pointer, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, ctypes.c_int]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [pointer]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    ]:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Brokers:
    """Brokers with these topics: `{name: number of partitions}`."""

    def __init__(self, topics: Mapping[str, int], brokers: int = 2) -> None:
        self._library = _librdkafka()
        reason = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", _ERRORS, reason, len(reason))
        self._client = self._library.rd_kafka_new(_PRODUCER, settings, reason, len(reason))
        if not self._client:
            raise RuntimeError(f"librdkafka does not start: {reason.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            raise RuntimeError("librdkafka starts no brokers")
        for topic, partitions in topics.items():
            self.create(topic, partitions)

    def create(self, topic: str, partitions: int) -> None:
        """A further topic."""
        error = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if error:
            raise RuntimeError(f"topic {topic} cannot be created: error {error} of librdkafka")

    @property
    def addresses(self) -> str:
        """`host:port` of each, with commas in between."""
        return str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
