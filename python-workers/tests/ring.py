"""A real ring within the test's own process: the core's end, and a worker that is stepped by hand."""

from collections.abc import Mapping
from typing import Any

from ringmill import types
from ringmill._reader import Batch, LocalChannel, Worker
from ringmill.failure import failure_payload
from ringmill.udf import declaration_of


class Ring:
    """One UDF at one channel. ``ask`` sends a batch and has it answered."""

    def __init__(self, udf: Any, schema: Mapping[str, types.DataType], *, rows: int = 8, slots: int = 4) -> None:
        declaration = declaration_of(udf)
        assert declaration is not None
        inputs = [(name, data_type.name, data_type.nullable) for name, data_type in schema.items()]
        outputs = [(field.name, field.type.name, field.type.nullable) for field in declaration.returned]
        capacity = (rows, rows * 64)
        self.slots = slots
        self.log: list[tuple[str, str]] = []
        self.ended: list[int] = []
        self.core = LocalChannel(inputs=inputs, outputs=outputs, capacity=capacity, slots=slots)
        request_fd, response_fd, doorbell_fd = self.core.worker_fds()
        self.worker = Worker(
            request_fd=request_fd,
            response_fd=response_fd,
            doorbell_fd=doorbell_fd,
            wait="adaptive",
            inputs=inputs,
            outputs=outputs,
            capacity=capacity,
            output_capacity=capacity,
        )
        udf: Any = declaration.instantiate()
        self.worker.bind(
            udf=udf,
            name=declaration.name,
            mode=declaration.mode,
            arguments=declaration.arguments,
            out=declaration.out,
            failure_payload=failure_payload,
            log=lambda level, message: self.log.append((level, message)),
            snapshot=udf.snapshot if declaration.has_snapshot else None,
            restore=udf.restore if declaration.has_snapshot else None,
        )

    def publish(self, columns: Mapping[str, Any]) -> int | None:
        rows = max(len(column) for column in columns.values())
        return self.core.publish(dict(columns), rows)

    def answer(self) -> dict[str, Any]:
        """Let the worker do one batch; its completion, with the slot still the core's."""
        assert self.worker.step() == "batch"
        return self.poll()

    def poll(self) -> dict[str, Any]:
        """The next answer; leases that ended before it are noted."""
        while True:
            completion = self.core.poll()
            assert completion is not None
            if completion["kind"] != "lease_released":
                return completion
            self.ended.append(completion["slot"])

    def ask(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Send a batch, have it answered, release its slot."""
        assert self.publish(columns) is not None, "no free slot"
        completion = self.answer()
        self.core.release(completion["slot"])
        return completion

    def results(self, columns: Mapping[str, Any]) -> Batch:
        completion = self.ask(columns)
        assert completion["kind"] == "result", completion["failure"]
        result: Batch = completion["columns"]
        return result

    def ended_leases(self) -> list[int]:
        """The slots whose leases the worker reports as ended."""
        self.worker.step()
        slots, self.ended = self.ended, []
        while (completion := self.core.poll()) is not None:
            assert completion["kind"] == "lease_released"
            slots.append(completion["slot"])
        return slots
