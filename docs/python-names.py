"""Prints the public names of this Python's `multiprocessing`, a line each: functions, classes and their methods.

`docs/python-names.txt` is made of it, and checked against it by the tests where there is a python3:

    python3 docs/python-names.py

Names are without the leading `multiprocessing.`; those of other modules that belong to it are whole.
"""

from importlib import import_module

# Functions and constants. What a module says that it exports, and what it does not say but documents.
MODULES = {
    "": (),
    "connection": ("answer_challenge", "deliver_challenge"),
    "dummy": (),
    "managers": (),
    "pool": (),
    "process": (),
    "queues": (),
    "reduction": (),
    "resource_tracker": (),
    "shared_memory": (),
    "sharedctypes": (),
    "synchronize": (),
    "util": (),
}

# Classes, by the name that users meet, with where to find what it is.
CLASSES = {
    "Process": "multiprocessing.Process",
    "context.BaseContext": "multiprocessing.context.BaseContext",
    "connection.Connection": "multiprocessing.connection.Connection",
    "connection.Listener": "multiprocessing.connection.Listener",
    "Queue": "multiprocessing.queues.Queue",
    "JoinableQueue": "multiprocessing.queues.JoinableQueue",
    "SimpleQueue": "multiprocessing.queues.SimpleQueue",
    "queue.Empty": "queue.Empty",
    "queue.Full": "queue.Full",
    "Lock": "multiprocessing.synchronize.Lock",
    "RLock": "multiprocessing.synchronize.RLock",
    "Semaphore": "multiprocessing.synchronize.Semaphore",
    "BoundedSemaphore": "multiprocessing.synchronize.BoundedSemaphore",
    "Condition": "multiprocessing.synchronize.Condition",
    "Event": "multiprocessing.synchronize.Event",
    "Barrier": "multiprocessing.synchronize.Barrier",
    "threading.BrokenBarrierError": "threading.BrokenBarrierError",
    "sharedctypes.SynchronizedBase": "multiprocessing.sharedctypes.SynchronizedBase",
    "sharedctypes.Synchronized": "multiprocessing.sharedctypes.Synchronized",
    "sharedctypes.SynchronizedArray": "multiprocessing.sharedctypes.SynchronizedArray",
    "sharedctypes.SynchronizedString": "multiprocessing.sharedctypes.SynchronizedString",
    "shared_memory.SharedMemory": "multiprocessing.shared_memory.SharedMemory",
    "shared_memory.ShareableList": "multiprocessing.shared_memory.ShareableList",
    "Pool": "multiprocessing.pool.Pool",
    "pool.ThreadPool": "multiprocessing.pool.ThreadPool",
    "pool.AsyncResult": "multiprocessing.pool.AsyncResult",
    "pool.MapResult": "multiprocessing.pool.MapResult",
    "pool.IMapIterator": "multiprocessing.pool.IMapIterator",
    "pool.IMapUnorderedIterator": "multiprocessing.pool.IMapUnorderedIterator",
    "pool.MaybeEncodingError": "multiprocessing.pool.MaybeEncodingError",
    "managers.BaseManager": "multiprocessing.managers.BaseManager",
    "managers.SyncManager": "multiprocessing.managers.SyncManager",
    "managers.SharedMemoryManager": "multiprocessing.managers.SharedMemoryManager",
    "managers.Server": "multiprocessing.managers.Server",
    "managers.RemoteError": "multiprocessing.managers.RemoteError",
    "managers.BaseProxy": "multiprocessing.managers.BaseProxy",
    "managers.AcquirerProxy": "multiprocessing.managers.AcquirerProxy",
    "managers.ArrayProxy": "multiprocessing.managers.ArrayProxy",
    "managers.BarrierProxy": "multiprocessing.managers.BarrierProxy",
    "managers.ConditionProxy": "multiprocessing.managers.ConditionProxy",
    "managers.DictProxy": "multiprocessing.managers.DictProxy",
    "managers.EventProxy": "multiprocessing.managers.EventProxy",
    "managers.IteratorProxy": "multiprocessing.managers.IteratorProxy",
    "managers.ListProxy": "multiprocessing.managers.ListProxy",
    "managers.Namespace": "multiprocessing.managers.Namespace",
    "managers.NamespaceProxy": "multiprocessing.managers.NamespaceProxy",
    "managers.PoolProxy": "multiprocessing.managers.PoolProxy",
    "managers.SetProxy": "multiprocessing.managers.SetProxy",
    "managers.ValueProxy": "multiprocessing.managers.ValueProxy",
    "concurrent.futures.ProcessPoolExecutor": "concurrent.futures.ProcessPoolExecutor",
    "concurrent.futures.Future": "concurrent.futures.Future",
    "concurrent.futures.process.BrokenProcessPool": "concurrent.futures.process.BrokenProcessPool",
}

# These modules give the classes above another time.
AGAIN = ("process", "queues", "synchronize")
# What users write as an operator or a statement. Comparisons and representations are left out.
OPERATORS = """__add__ __and__ __contains__ __delitem__ __enter__ __exit__ __getitem__ __iadd__ __iand__ __imul__
    __ior__ __isub__ __iter__ __ixor__ __len__ __mul__ __next__ __or__ __reversed__ __setitem__ __sub__
    __xor__""".split()


def look_up(path):
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name, None)


# What only an instance has.
INSTANCES = {
    "Lock": ("acquire", "release"),
    "RLock": ("acquire", "release"),
    "Semaphore": ("acquire", "release"),
    "BoundedSemaphore": ("acquire", "release"),
    "Condition": ("acquire", "release"),
    "SynchronizedBase": ("acquire", "release"),
    "Synchronized": ("acquire", "release"),
    "SynchronizedArray": ("acquire", "release"),
    "SynchronizedString": ("acquire", "release"),
    "BaseManager": ("shutdown",),
    "SyncManager": ("shutdown",),
    "SharedMemoryManager": ("shutdown",),
    "MaybeEncodingError": ("exc", "value"),
    "ShareableList": ("shm",),
}
# For the module's own use.
INTERNAL = {"Pool": ("Process",), "PoolProxy": ("Process",), "ThreadPool": ("Process",)}


def members(cls):
    """What a class has beyond any object, exception or tuple."""
    if cls.__name__ == "Server":
        return ["serve_forever"]
    ours = ("multiprocessing", "concurrent.futures")
    names = {name for base in cls.__mro__ if base.__module__.startswith(ours) for name in vars(base)}
    names.update(INSTANCES.get(cls.__name__, ()))
    names.difference_update(INTERNAL.get(cls.__name__, ()))
    return sorted(name for name in names if not name.startswith("_") or name in OPERATORS)


def main():
    names = set()
    for module, more in MODULES.items():
        full = import_module("multiprocessing" + (module and "." + module))
        for name in (*full.__all__, *more):
            if module not in AGAIN and not name.startswith("_"):
                names.add((module and module + ".") + name)
    for name, path in CLASSES.items():
        cls = look_up(path)
        if cls is not None:
            names.add(name)
            names.update(f"{name}.{member}" for member in members(cls))
    print(*sorted(names), sep="\n")


main()
