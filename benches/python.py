"""What a case of the benchmarks costs in CPython: prints nanoseconds per step.

Run by the benchmarks, with the case and the number of steps as arguments. An empty loop is taken off where a
step is one call or two. Processes are forked, as they are on the other side, and started before the clock is.
"""

import multiprocessing as mp
import sys
import time

PROCESSES = 4


def alone(step, steps):
    loop = range(steps)
    start = time.perf_counter_ns()
    for _ in loop:
        pass
    empty = time.perf_counter_ns() - start
    start = time.perf_counter_ns()
    for _ in loop:
        step()
    return max(time.perf_counter_ns() - start - empty, 0) / steps


def together(step, steps):
    """Nanoseconds of the clock for each step of all processes together."""
    share = steps // PROCESSES
    barrier = fork.Barrier(PROCESSES + 1)

    def work():
        barrier.wait()
        for _ in range(share):
            step()
        barrier.wait()

    children = [fork.Process(target=work) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    barrier.wait()
    start = time.perf_counter_ns()
    barrier.wait()
    elapsed = time.perf_counter_ns() - start
    for child in children:
        child.join()
    return elapsed / (share * PROCESSES)


def queue(shape, size, items):
    """Nanoseconds of the clock for each item that goes from so many processes to so many others."""
    producers, consumers = (int(number) for number in shape.rstrip("c").split("p"))
    item = 7 if size == "8B" else bytes(1024)
    shared = fork.Queue()
    barrier = fork.Barrier(producers + consumers + 1)

    def put():
        barrier.wait()
        for _ in range(items // producers):
            shared.put(item)

    def get():
        barrier.wait()
        for _ in range(items // consumers):
            shared.get()

    sides = [put] * producers + [get] * consumers
    children = [fork.Process(target=side) for side in sides]
    for child in children:
        child.start()
    barrier.wait()
    start = time.perf_counter_ns()
    for child in children:
        child.join()
    return (time.perf_counter_ns() - start) / items


def main(case, steps):
    lock = fork.Lock()
    semaphore = fork.Semaphore(1)
    value = fork.Value("q", 0)

    def lock_and_unlock():
        lock.acquire()
        lock.release()

    def count():
        with lock:
            raw.value += 1

    def increment():
        with value.get_lock():
            value.value += 1

    def acquire_and_release():
        semaphore.acquire()
        semaphore.release()

    raw = fork.RawValue("q", 0)
    if case == "lock_uncontended":
        return alone(lock_and_unlock, steps)
    if case == "semaphore_uncontended":
        return alone(acquire_and_release, steps)
    if case == "lock_contended_4p":
        return together(count, steps)
    if case == "value_increment":
        return together(increment, steps)
    if case == "array_write":
        # Nanoseconds for each byte of one assignment to the whole of an array.
        array = fork.RawArray("b", steps)
        view, content = memoryview(array).cast("B"), b"Z" * steps
        view[:] = content
        start = time.perf_counter_ns()
        view[:] = content
        return (time.perf_counter_ns() - start) / steps
    if case.startswith("queue_"):
        return queue(*case.split("_")[1:], steps)
    raise SystemExit(f"no case {case}")


if __name__ == "__main__":
    fork = mp.get_context("fork")
    print(main(sys.argv[1], int(sys.argv[2])))
