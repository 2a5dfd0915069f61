"""What a case of the benchmarks costs in CPython: prints nanoseconds per step.

Run by the benchmarks, with the case and the number of steps as arguments. An empty loop is taken off where a
step is one call or two. Processes are forked, as they are on the other side, and started before the clock is.
"""

import multiprocessing as mp
import sys
import time
from concurrent.futures import ProcessPoolExecutor

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


def nothing():
    pass


def square(x):
    return x * x


def pool(case, steps):
    """Nanoseconds for each task or item of a pool of two, or KiB of a worker that has done some."""
    if case == "executor_tasks_empty":
        with ProcessPoolExecutor(2, mp_context=fork) as executor:
            executor.submit(nothing).result()
            start = time.perf_counter_ns()
            for result in [executor.submit(nothing) for _ in range(steps)]:
                result.result()
            return (time.perf_counter_ns() - start) / steps
    with fork.Pool(2) as workers:
        workers.map(square, range(1000))
        if case == "pool_worker_pss":
            lines = open(f"/proc/{workers._pool[0].pid}/smaps_rollup").read().splitlines()
            return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))
        start = time.perf_counter_ns()
        if case == "pool_tasks_empty":
            for result in [workers.apply_async(nothing) for _ in range(steps)]:
                result.get()
        elif case == "pool_round_trip":
            for _ in range(steps):
                workers.apply(nothing)
        elif case == "pool_map":
            workers.map(square, range(steps))
        elif case == "pool_imap_unordered":
            for _ in workers.imap_unordered(square, range(steps)):
                pass
        else:
            raise SystemExit(f"no case {case}")
        return (time.perf_counter_ns() - start) / steps


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


def manager(case, steps):
    """Nanoseconds of the clock for each step of one client of a manager's dict, or of four together."""
    step, clients = case.split("_")[2], int(case[-2])
    with fork.Manager() as server:
        shared = server.dict()
        barrier = fork.Barrier(clients + 1)

        def work():
            for key in range(100):
                shared[key] = key
            barrier.wait()
            for n in range(steps // clients):
                if step == "set":
                    shared[n % 100] = n
                else:
                    shared[n % 100]
            barrier.wait()

        children = [fork.Process(target=work) for _ in range(clients)]
        for child in children:
            child.start()
        barrier.wait()
        start = time.perf_counter_ns()
        barrier.wait()
        elapsed = time.perf_counter_ns() - start
        for child in children:
            child.join()
        return elapsed / steps


def main(case, steps):
    if case.startswith("manager_"):
        return manager(case, steps)
    if case.startswith(("pool_", "executor_")):
        return pool(case, steps)
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
