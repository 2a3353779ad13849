"""The only place that knows IPython and Jupyter.

`extension` is where it begins and `demo` runs a notebook in a terminal. Private modules are rows
of their own, each imports from lower ones only:

===  ==========================================================
row  modules
===  ==========================================================
4    extension, demo
3    _ask, _define, _commands, _complete
2    _host
1    _live, _specs, _values, _replay, _attach
0    _errors, _options, _templates, _rewrite, _config
===  ==========================================================
"""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name not in ("load_ipython_extension", "unload_ipython_extension"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mastra_nb.notebook import extension

    return getattr(extension, name)
