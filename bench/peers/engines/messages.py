"""Messages between two Python processes: `messages.py TRANSPORT WAIT MEASURE BYTES COUNT CPU CPU`, like the Rust harness.

iceoryx2-python  its Python package: slices written and read through NumPy views, polled
zeromq           PAIR sockets over ipc; spin: `recv(NOBLOCK)` in a loop
mp-queue         two multiprocessing.Queues
mp-pipe          multiprocessing.Pipe with send_bytes and recv_bytes_into

Payloads are NumPy arrays, written in full (`fill`) and read in full (`sum`).
"""

import ctypes
import json
import multiprocessing as mp
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """The command line."""

    transport: str
    spin: bool
    round_trip: bool
    size: int
    count: int
    cpus: tuple[int, int]

    @property
    def warm_up(self) -> int:
        """Round trips that are not counted."""
        return self.count // 4


@dataclass(frozen=True)
class Ends:
    """How one side writes and reads."""

    send: Callable[[int], None]
    receive: Callable[[], int]
    window: int | None = None
    """Where the library needs it: the receiver answers one message in so many, and three answers may be owed."""


def zeromq(plan: Plan, address: str, first: bool) -> Ends:
    """PAIR."""
    import zmq  # type: ignore[import-not-found]  # of this peer's environment

    socket = zmq.Context.instance().socket(zmq.PAIR)
    if first:
        socket.bind(address)
    else:
        socket.connect(address)

    def send(number: int) -> None:
        # A buffer of its own for each message: ZeroMQ may hold it until it is sent.
        socket.send(np.full(plan.size // 8, number), copy=False)

    def receive() -> int:
        while True:
            try:
                message = socket.recv(zmq.NOBLOCK if plan.spin else 0, copy=False)
                return int(np.frombuffer(message.buffer, np.int64).sum())
            except zmq.Again:
                continue

    return Ends(send, receive)


def iceoryx(plan: Plan, name: str, first: bool) -> Ends:
    """One service there and one back."""
    import iceoryx2 as iox2  # type: ignore[import-not-found]  # of this peer's environment

    iox2.set_log_level(iox2.LogLevel.Error)
    node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
    words = plan.size // 8

    def service(way: str) -> Any:
        builder = node.service_builder(iox2.ServiceName.new(f"{name}-{way}")).publish_subscribe(iox2.Slice[ctypes.c_int64])
        builder = builder.max_publishers(1).max_subscribers(1).max_nodes(2).history_size(0)
        return builder.subscriber_max_buffer_size(256).enable_safe_overflow(False).open_or_create()

    out, back = ("there", "back") if first else ("back", "there")
    publishers = service(out).publisher_builder().initial_max_slice_len(words)
    publisher = publishers.backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered).create()
    subscriber = service(back).subscriber_builder().create()

    def send(number: int) -> None:
        sample = publisher.loan_slice_uninit(words)
        np.frombuffer(sample.payload().as_memory_view(), np.int64).fill(number)
        sample.assume_init().send()

    def receive() -> int:
        while (sample := subscriber.receive()) is None:
            pass
        total = int(np.frombuffer(sample.payload().as_memory_view(), np.int64).sum())
        sample.delete()
        return total

    # Nothing else holds the node.
    send.node = node  # type: ignore[attr-defined]
    # Whatever the strategy, the package of 0.10.0 dies (SIGSEGV, or a panic) when the subscriber's buffer is full.
    return Ends(send, receive, window=32)


def queues(plan: Plan, out: Any, back: Any) -> Ends:
    """Of multiprocessing."""
    return Ends(lambda number: out.put(np.full(plan.size // 8, number)), lambda: int(back.get().sum()))


def pipe(plan: Plan, connection: Any) -> Ends:
    """Of multiprocessing, bytes without pickle."""
    outgoing: Words = np.zeros(plan.size // 8, np.int64)
    incoming: Words = np.zeros(plan.size // 8, np.int64)
    out, back = outgoing.view(np.uint8), incoming.view(np.uint8)

    def send(number: int) -> None:
        outgoing.fill(number)
        connection.send_bytes(out)

    def receive() -> int:
        connection.recv_bytes_into(back)
        return int(incoming.sum())

    return Ends(send, receive)


def ends(plan: Plan, place: Any, first: bool) -> Ends:
    """Of one side."""
    match plan.transport:
        case "zeromq":
            return zeromq(plan, place, first)
        case "iceoryx2-python":
            return iceoryx(plan, place, first)
        case "mp-queue":
            return queues(plan, *(place if first else place[::-1]))
        case _:
            return pipe(plan, place[0] if first else place[1])


def other_side(plan: Plan, place: Any, ready: Any) -> None:
    """Answers, or receives and says so in the end."""
    os.sched_setaffinity(0, {plan.cpus[1]})
    side = ends(plan, place, False)
    ready.set()
    if plan.round_trip:
        for number in range(plan.warm_up + plan.count):
            side.receive()
            side.send(number)
    else:
        for number in range(plan.count):
            side.receive()
            if side.window and number % side.window == 0:
                side.send(number)
        side.send(plan.count)
    time.sleep(0.2)  # what was sent last has to be read before its sender ends


def main() -> None:
    """Measures what it is told; prints one JSON object."""
    transport, wait, measure, size, count, first, second = sys.argv[1:8]
    plan = Plan(transport, wait == "spin", measure == "round-trip", int(size), int(count), (int(first), int(second)))
    os.sched_setaffinity(0, {plan.cpus[0]})
    with tempfile.TemporaryDirectory() as folder:
        context = mp.get_context("fork")
        place: Any
        match plan.transport:
            case "zeromq":
                place = f"ipc://{folder}/socket"
            case "iceoryx2-python":
                place = f"peers-messages-{os.getpid()}"
            case "mp-queue":
                place = (context.Queue(), context.Queue())
            case _:
                place = context.Pipe()
        ready = context.Event()
        process = context.Process(target=other_side, args=(plan, place, ready))
        process.start()
        side = ends(plan, place, True)
        ready.wait()
        print(json.dumps(measured(plan, side)), flush=True)
        process.join()
    # Libraries with threads of their own need not be taken apart.
    sys.stdout.flush()
    os._exit(0)


def measured(plan: Plan, side: Ends) -> dict[str, Any]:
    """The figures."""
    if not plan.round_trip:
        start = time.perf_counter()
        owed = 0
        for number in range(plan.count):
            side.send(number)
            if side.window and number % side.window == 0:
                owed += 1
            if owed > 3:
                side.receive()
                owed -= 1
        for _ in range(owed + 1):
            side.receive()
        return {"messages_per_second": plan.count / (time.perf_counter() - start)}
    for number in range(plan.warm_up):
        side.send(number)
        side.receive()
    times = np.empty(plan.count + 1, np.int64)
    times[0] = time.perf_counter_ns()
    for number in range(plan.count):
        side.send(number)
        side.receive()
        times[number + 1] = time.perf_counter_ns()
    np.save("nanoseconds.npy", np.diff(times))
    return {"nanoseconds": "nanoseconds.npy"}


if __name__ == "__main__":
    main()
