"""J1 and J3 without an engine: arrays of 1,024 values to worker processes and back, in the ways that Python programs do it.

queue    multiprocessing.Queue there and back (pickles)
pool     multiprocessing.Pool.imap (pickles), chunks of 16 batches
futures  concurrent.futures with multiprocessing.shared_memory: a slot's number is pickled, the arrays are not
zeromq   ZeroMQ PUSH/PULL over ipc, the arrays' buffers as messages
"""

import multiprocessing as mp
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from peers.engines.job import BATCH_ROWS, FUNCTIONS, WEIGHTS, Floats, Job, batches, report, told

IN_FLIGHT = 64
"""Batches on the way; more did not help any of them."""
BATCH_BYTES = BATCH_ROWS * 8


def pin(number: int) -> None:
    """With one worker, it and the parent get a core each; with more, the scheduler decides."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def queue_worker(function: Callable[[Floats], Floats], questions: Any, answers: Any, core: int | None) -> None:
    """Until None comes."""
    if core is not None:
        pin(core)
    while (batch := questions.get()) is not None:
        answers.put(function(batch))


def queue(job: Job, values: Floats) -> float:
    """Returns the digest."""
    questions: Any = mp.Queue()
    answers: Any = mp.Queue()
    arguments = (FUNCTIONS[job.name], questions, answers, 1 if job.workers == 1 else None)
    workers = [mp.Process(target=queue_worker, args=arguments) for _ in range(job.workers)]
    for worker in workers:
        worker.start()
    if job.workers == 1:
        pin(0)
    digest, in_flight = 0.0, 0
    for batch in batches(values, job.rows):
        questions.put(batch)
        in_flight += 1
        if in_flight == IN_FLIGHT:
            digest += float(answers.get() @ WEIGHTS)
            in_flight -= 1
    for _ in range(in_flight):
        digest += float(answers.get() @ WEIGHTS)
    for _ in workers:
        questions.put(None)
    for worker in workers:
        worker.join()
    return digest


def pool(job: Job, values: Floats) -> float:
    """Returns the digest."""
    with mp.Pool(job.workers) as processes:
        results = processes.imap(FUNCTIONS[job.name], batches(values, job.rows), chunksize=16)
        return float(sum(float(scores @ WEIGHTS) for scores in results))


class Slots:
    """Worker's (and parent's) view of the shared memory: an array for each batch on the way, overwritten by its result."""

    memory: SharedMemory
    arrays: Floats
    function: Callable[[Floats], Floats]

    @classmethod
    def attach(cls, name: str, job: str) -> None:
        """Once in each worker."""
        cls.memory = SharedMemory(name)
        cls.arrays = np.ndarray((IN_FLIGHT, BATCH_ROWS), buffer=cls.memory.buf)
        cls.function = FUNCTIONS[job]

    @classmethod
    def answer(cls, slot: int) -> int:
        """In a worker."""
        cls.arrays[slot] = cls.function(cls.arrays[slot])
        return slot


def futures(job: Job, values: Floats) -> float:
    """Returns the digest."""
    memory = SharedMemory(create=True, size=IN_FLIGHT * BATCH_BYTES)
    arrays: Floats = np.ndarray((IN_FLIGHT, BATCH_ROWS), buffer=memory.buf)
    digest = 0.0
    free = list(range(IN_FLIGHT))
    running: set[Future[int]] = set()
    with ProcessPoolExecutor(job.workers, initializer=Slots.attach, initargs=(memory.name, job.name)) as executor:
        for batch in batches(values, job.rows):
            if not free:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    digest += float(arrays[future.result()] @ WEIGHTS)
                    free.append(future.result())
            slot = free.pop()
            arrays[slot] = batch
            running.add(executor.submit(Slots.answer, slot))
        for future in running:
            digest += float(arrays[future.result()] @ WEIGHTS)
    del arrays
    memory.close()
    memory.unlink()
    return digest


def zeromq_worker(function: Callable[[Floats], Floats], questions_at: str, answers_at: str, core: int | None) -> None:
    """Until an empty message comes."""
    import zmq  # type: ignore[import-not-found]  # of this peer's environment

    if core is not None:
        pin(core)
    context = zmq.Context()
    questions, answers = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    questions.connect(questions_at)
    answers.connect(answers_at)
    answers.send(b"")
    while True:
        message = questions.recv(copy=False)
        if not len(message.buffer):
            break
        answers.send(function(np.frombuffer(message.buffer)), copy=False)
    questions.close()
    answers.close()
    context.term()


def zeromq(job: Job, values: Floats) -> float:
    """Returns the digest."""
    import zmq

    with tempfile.TemporaryDirectory() as folder:
        questions_at, answers_at = f"ipc://{folder}/questions", f"ipc://{folder}/answers"
        core = 1 if job.workers == 1 else None
        arguments = (FUNCTIONS[job.name], questions_at, answers_at, core)
        context = zmq.Context()
        questions, answers = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        questions.bind(questions_at)
        answers.bind(answers_at)
        workers = [mp.get_context("spawn").Process(target=zeromq_worker, args=arguments) for _ in range(job.workers)]
        for worker in workers:
            worker.start()
        for _ in workers:
            # Who is not there yet would get nothing, not even the end.
            answers.recv()
        digest, in_flight = 0.0, 0
        for batch in batches(values, job.rows):
            questions.send(batch, copy=False)
            in_flight += 1
            if in_flight == IN_FLIGHT:
                digest += float(np.frombuffer(answers.recv(copy=False).buffer) @ WEIGHTS)
                in_flight -= 1
        for _ in range(in_flight):
            digest += float(np.frombuffer(answers.recv(copy=False).buffer) @ WEIGHTS)
        for _ in workers:
            questions.send(b"")
        for worker in workers:
            worker.join()
        questions.close()
        answers.close()
        context.term()
    return digest


def main() -> None:
    """Runs what it is told."""
    job = told()
    values = np.load(job.input)
    ways = {"queue": queue, "pool": pool, "futures": futures, "zeromq": zeromq}
    digest = ways[job.variant](job, values)
    report(job, rows=job.rows, digest=digest)


if __name__ == "__main__":
    main()
