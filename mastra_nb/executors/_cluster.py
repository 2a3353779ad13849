"""A Dask cluster as a program of its own: it writes its address and ends when its input does.

In the caller's process its workers would run the caller's `__main__` again, whatever that is, and
the scheduler would take the caller's time.
"""

from __future__ import annotations

import logging
import os
import sys

# A death is told at once: whoever submitted knows whether the call may be made again.
_CONFIG = {"distributed.scheduler.allowed-failures": 0}


def main(workers: int) -> None:
    import dask
    from distributed import LocalCluster

    # What workers print is no address.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with (
        dask.config.set(_CONFIG),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        told.write(f"{cluster.scheduler_address}\n")
        told.close()
        sys.stdin.read()
