"""The only place that knows IPython and Jupyter.

`extension` is where it begins, `demo` runs a notebook in a terminal and `headless` loads one as an
application. Private modules are rows
of their own, each imports from lower ones only:

===  ==========================================================
row  modules
===  ==========================================================
9    headless
8    extension, demo, server_extension
7    _answers, _background
6    _each, _present, _resume
5    _ask, _define, _commands, _complete
4    chat, dashboard, _channel, _compare, _doctor, _jobs, _kept, _keys, _progress, _serve,
     _tables, _workflows
3    _host, _talk
2    _live, _people, _specs, _values, _replay, _attach, _context, _front, _turns
1    _cells, _config, _questions
0    _errors, _options, _rows, _templates, _rewrite, _html, _static
===  ==========================================================
"""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name not in ("load_ipython_extension", "unload_ipython_extension"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mastra_nb.notebook import extension

    return getattr(extension, name)
