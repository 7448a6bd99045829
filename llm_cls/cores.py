"""Threads on a machine whose cores other processes use as well."""

import os
import time
from pathlib import Path

_LOAD = Path("/proc/loadavg")  # Linux; its fourth field is the number of threads that want to run, of all threads
_SAMPLES = 5
_PAUSE_SECONDS = 0.004


def usable_cores() -> int:
    """The processor cores that this process may use; a container or a cluster's job may have fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_cores() -> None:
    """Lets threads that wait for one another sleep where other processes use the cores. Call it before torch is loaded.

    Threads of OpenMP wait by computing, so that they go on at once. While another process runs on the core of one of
    them, the others wait for it in vain: with one of two cores in use, a training step took twelve times as long, and
    1.6 times with threads that sleep. On free cores, sleeping threads made a step up to a quarter slower.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        return  # the user has decided
    cores = usable_cores()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    own = int(threads) if threads.isdecimal() else cores
    if own > 1 and threads_elsewhere() + own > cores:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def threads_elsewhere(load: Path = _LOAD) -> int:
    """How many threads of other processes run all the time; 0 where the system does not say."""
    fewest = 0
    for i in range(_SAMPLES):
        try:
            running = int(load.read_text(encoding="ascii").split()[3].partition("/")[0]) - 1  # without this one
        except (OSError, ValueError, IndexError):
            return 0
        fewest = min(fewest, running) if i else running
        if fewest <= 0:
            return 0
        time.sleep(_PAUSE_SECONDS)
    return fewest
