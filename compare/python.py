"""CPython's rows of the comparison: prints a line with a figure in the case's unit, for round trips with its p99.

Run by the rows, with: case, seconds, bytes of a message, the cores of both sides ("" or "0,1"), producers,
consumers, and what else the case takes. The cases are defined as on the Rust side, see README.md.
"""

import concurrent.futures
import ctypes
import multiprocessing as mp
import os
import struct
import sys
import time
from multiprocessing import shared_memory

END, START, FIRST = 0, 1, 2
KEYS = 1000


def pin(cores, side):
    if cores:
        os.sched_setaffinity(0, {int(cores.split(",")[side])})


def nothing(*_):
    pass


def square(x):
    return x * x


def percentiles(times):
    times.sort()
    return times[len(times) // 2] / 1000, times[(len(times) - 1) * 99 // 100] / 1000


def start(args, method):
    context = mp.get_context(method)

    def once():
        child = context.Process(target=nothing)
        child.start()
        child.join()

    once()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begin < args.seconds:
        before = time.perf_counter_ns()
        once()
        times.append(time.perf_counter_ns() - before)
    return percentiles(times)


def echo(cores, connection):
    pin(cores, 1)
    word = FIRST
    while word != END:
        word = connection.recv()
        connection.send(word)


def trips(args):
    near, far = fork.Pipe()
    child = fork.Process(target=echo, args=(args.cores, far))
    child.start()
    pin(args.cores, 0)
    word = FIRST
    for seconds in (args.seconds / 5, args.seconds):
        times, last = [], time.perf_counter_ns()
        end = last + seconds * 1e9
        while last < end:
            near.send(word)
            assert near.recv() == word
            after = time.perf_counter_ns()
            times.append(after - last)
            last, word = after, word + 1
    near.send(END)
    near.recv()
    child.join()
    return percentiles(times)


def message(size, tag):
    """What is sent for a tag: a number where it is a word, else bytes that begin with it."""
    return tag if size == 8 else struct.pack("=Q", tag) + b"\1" * (size - 8)


def tag_of(got):
    return got if isinstance(got, int) else struct.unpack_from("=Q", got)[0]


def burst(size, seconds, send):
    tag, total, begin = FIRST, 0, time.perf_counter()
    rest = b"\1" * (size - 8)
    while time.perf_counter() - begin < seconds:
        for _ in range(32 if size <= 1024 else 1):
            send(tag if size == 8 else struct.pack("=Q", tag) + rest)
            total += tag
            tag += 1
    return tag - FIRST, total


def receive(size, recv, results):
    while tag_of(recv()) != START:
        pass
    count, total, begin = 0, 0, time.perf_counter()
    while (tag := tag_of(recv())) != END:
        count += 1
        total += tag
    results.send((count, total, time.perf_counter() - begin))


def stream(args):
    reader, writer = fork.Pipe(duplex=False)
    results, report = fork.Pipe(duplex=False)
    words = args.size == 8
    recv, send = (reader.recv, writer.send) if words else (reader.recv_bytes, writer.send_bytes)
    child = fork.Process(target=receive, args=(args.size, recv, report))
    child.start()
    burst(args.size, args.seconds / 5, send)
    send(message(args.size, START))
    sent = burst(args.size, args.seconds, send)
    send(message(args.size, END))
    count, total, elapsed = results.recv()
    child.join()
    assert (count, total) == sent
    return [count / elapsed * (args.size / (1 << 30) if args.size > 1024 else 1)]


def produce(args, gate, put, results):
    gate.wait()
    begin = time.perf_counter()
    results.put((*burst(args.size, args.seconds, put), begin))


def consume(get, results):
    count, total = 0, 0
    while (tag := tag_of(get())) != END:
        count += 1
        total += tag
    results.put((count, total, time.perf_counter()))


def queue(args, kind):
    # As deep as the others. SimpleQueue is as deep as a kernel pipe.
    items = fork.Queue(4096 if args.size == 8 else 1024) if kind == "Queue" else fork.SimpleQueue()
    sent, got = fork.SimpleQueue(), fork.SimpleQueue()
    gate = fork.Barrier(args.producers)
    consumers = [fork.Process(target=consume, args=(items.get, got)) for _ in range(args.consumers)]
    producers = [
        fork.Process(target=produce, args=(args, gate, items.put, sent))
        for _ in range(args.producers)
    ]
    for child in consumers + producers:
        child.start()
    sent = [sent.get() for _ in producers]
    for child in producers:
        child.join()
    for _ in consumers:
        items.put(message(args.size, END))
    got = [got.get() for _ in consumers]
    for child in consumers:
        child.join()
    assert sum(one[0] for one in sent) == sum(one[0] for one in got)
    assert sum(one[1] for one in sent) == sum(one[1] for one in got)
    return [sum(one[0] for one in got) / (max(one[2] for one in got) - min(one[2] for one in sent))]


def rate(args, batch):
    begin = time.perf_counter()
    while time.perf_counter() - begin < args.seconds / 5:
        batch()
    done, begin = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - begin < args.seconds:
        done += batch()
    return [done / (time.perf_counter() - begin)]


def tasks(args, kind):
    def apply_async():
        for result in [pool.apply_async(nothing) for _ in range(1000)]:
            result.get()
        return 1000

    def executor():
        for result in [pool.submit(nothing) for _ in range(1000)]:
            result.result()
        return 1000

    if kind == "executor":
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as pool:
            return rate(args, executor)
    with fork.Pool(2) as pool:
        return rate(args, apply_async)


def map_squares(args, items):
    items = range(int(items))
    with fork.Pool(2) as pool:

        def once():
            squares = pool.map(square, items)
            assert squares[7] == 49 and squares[-1] == items[-1] ** 2
            return len(squares)

        return rate(args, once)


def client(args, proxy, operation, gate, results):
    for key in range(KEYS):
        proxy[key] = key * 3
    gate.wait()
    count, begin = 0, time.perf_counter()
    end = begin + args.seconds
    while (now := time.perf_counter()) < end:
        key = count % KEYS
        if operation == "set":
            proxy[key] = key * 3
        else:
            assert proxy[key] == key * 3
        count += 1
    results.put((count, begin, now))


def dictionary(args, operation):
    with fork.Manager() as manager:
        proxy, results = manager.dict(), fork.SimpleQueue()
        gate = fork.Barrier(args.producers)
        clients = [
            fork.Process(target=client, args=(args, proxy, operation, gate, results))
            for _ in range(args.producers)
        ]
        for child in clients:
            child.start()
        done = [results.get() for _ in clients]
        for child in clients:
            child.join()
        elapsed = max(end for _, _, end in done) - min(begin for _, begin, _ in done)
        return [sum(count for count, _, _ in done) / elapsed]


def find(address, size):
    """Looks at all bytes for one that is not there: the standard library has no fast sum."""
    memchr = ctypes.CDLL(None).memchr
    memchr.restype = ctypes.c_void_p
    memchr.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    assert memchr(address, 255, size) is None


def find_in(connection, kind):
    while (got := connection.recv_bytes() if kind == "pipe" else connection.recv()) != b"":
        if kind == "pipe":
            assert got.find(b"\xff") == -1
        else:
            # This process was forked and so has its parent's resource tracker: a second registration is none.
            memory = shared_memory.SharedMemory(got)
            address = ctypes.c_char.from_buffer(memory.buf)
            find(ctypes.addressof(address), memory.size)
            del address
            memory.close()
        connection.send(True)


def transfer(args, kind):
    near, far = fork.Pipe()
    # Its resource tracker is started before the fork, or the child would have one of its own.
    shared_memory.resource_tracker.ensure_running()
    child = fork.Process(target=find_in, args=(far, kind))
    child.start()
    # The first is to warm up.
    times = []
    for turn in range(2 if args.seconds < 0.1 else 4):
        content = bytes([turn + 1]) * args.size

        def share():
            memory = shared_memory.SharedMemory(create=True, size=args.size)
            memory.buf[:] = content
            return memory

        memory = share() if kind == "shared" else None
        before = time.perf_counter()
        if kind == "copy":
            memory = share()
        if kind == "pipe":
            near.send_bytes(content)
        else:
            near.send(memory.name)
        near.recv()
        times.append(time.perf_counter() - before)
        if memory:
            memory.close()
            memory.unlink()
    if kind == "pipe":
        near.send_bytes(b"")
    else:
        near.send(b"")
    child.join()
    times = sorted(times[1:])
    return [args.size / (1 << 30) / times[len(times) // 2]]


def steps(seconds, step):
    """How many, and the seconds. An empty loop is taken off."""
    loop, count, elapsed = range(1000), 0, 0.0
    while elapsed < seconds:
        begin = time.perf_counter()
        for _ in loop:
            step()
        elapsed += time.perf_counter() - begin
        count += 1000
    return count, elapsed


def lock(args, kind):
    one = fork.Lock() if kind == "lock" else fork.Semaphore(1)

    def step():
        one.acquire()
        one.release()

    count, elapsed = steps(args.seconds, step)
    empty_count, empty = steps(args.seconds / 5, lambda: None)
    return [(elapsed / count - empty / empty_count) * 1e9]


def count_up(args, value, gate, results):
    def step():
        with value.get_lock():
            value.value += 1

    gate.wait()
    begin = time.perf_counter()
    count, _ = steps(args.seconds, step)
    results.put((count, begin, time.perf_counter()))


def counter(args):
    value, gate, results = fork.Value("Q"), fork.Barrier(args.producers), fork.SimpleQueue()
    children = [
        fork.Process(target=count_up, args=(args, value, gate, results))
        for _ in range(args.producers)
    ]
    for child in children:
        child.start()
    done = [results.get() for _ in children]
    for child in children:
        child.join()
    total = sum(count for count, _, _ in done)
    assert value.value == total
    elapsed = max(end for _, _, end in done) - min(begin for _, begin, _ in done)
    return [elapsed / total * 1e9]


def memory(_, method):
    with mp.get_context(method).Pool(2) as pool:
        pool.map(time.sleep, [0.02, 0.02], 1)
        time.sleep(0.05)
        sizes = []
        for worker in pool._pool:
            with open(f"/proc/{worker.pid}/smaps_rollup") as file:
                sizes += [int(line.split()[1]) for line in file if line.startswith("Pss:")]
    return [sum(sizes) / len(sizes)]


class Arguments:
    def __init__(self, seconds, size, cores, producers, consumers):
        self.seconds, self.size, self.cores = float(seconds), int(size), cores
        self.producers, self.consumers = int(producers), int(consumers)


CASES = {
    "start": start,
    "trips": trips,
    "stream": stream,
    "queue": queue,
    "tasks": tasks,
    "map": map_squares,
    "dict": dictionary,
    "transfer": transfer,
    "lock": lock,
    "counter": counter,
    "memory": memory,
}

if __name__ == "__main__":
    fork = mp.get_context("fork")
    print(*CASES[sys.argv[1]](Arguments(*sys.argv[2:7]), *sys.argv[7:]))
