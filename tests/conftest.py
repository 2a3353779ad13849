from __future__ import annotations

import gc
import os

from hypothesis import settings

# A change is judged by the same examples each time; new ones are looked for at a desk.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """What was collected stays to the end: a look through all of it for garbage takes 0.4 s, in
    which a server of a test says nothing.
    """
    gc.collect()
    gc.freeze()
