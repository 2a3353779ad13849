"""The peak memory of this process; imports nothing where it can be read from a file."""


def peak_rss() -> float:
    """Megabytes. `ru_maxrss` of Linux can be the parent's, from the moment of the fork."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024) if sys.platform == "darwin" else peak / 1024
