"""A project's application: which file it is, and the Mastra that this file makes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import msgspec

from mastra_nb.app import Mastra, app_in, parts_in
from mastra_nb.config import default_storage, load_settings, project_root
from mastra_nb.errors import ConfigError, MastraError, NotFound, UsageError, close_matches
from mastra_nb.services import set_ambient

_ATTRIBUTE = re.compile(r"(?P<where>.+):(?P<name>[A-Za-z_]\w*)")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What holds an application: a file (`path`) or a module's dotted name, and the variable.

    `root` is the project's.
    """

    root: Path
    path: Path | None = None
    module: str = ""
    name: str = ""

    @property
    def is_notebook(self) -> bool:
        return self.path is not None and self.path.suffix == ".ipynb"

    def __str__(self) -> str:
        if self.path is None:
            where = self.module
        elif self.path.is_relative_to(self.root):
            where = self.path.relative_to(self.root).as_posix()
        else:
            where = str(self.path)
        return f"{where}:{self.name}" if self.name else where


def load_app(target: str | None = None) -> Mastra:
    """The application of `target`: "app.py", "app.py:name", "package.module:name",
    "analyst.ipynb", or None for the project's (its setting `app`, else the only one of app.py and
    the notebooks in its root).

    A module's is its variable `app`, or the only Mastra in it, else all of its agents, workflows
    and tools, with the project's store. Where the target is of another project than the current
    folder, the current folder becomes that project's root: its .env and its store are the ones that
    count. Raises NotFound, ConfigError, and UsageError with the file's own error as its cause.
    """
    found = find_target(target)
    if project_root() != found.root:
        os.chdir(found.root)
    if found.is_notebook:
        # Only a notebook needs IPython.
        from mastra_nb.notebook.headless import load_notebook

        assert found.path is not None
        return load_notebook(found.path)
    app = _module_app(_module(found), found)
    # What the module has made without its application, such as an index, uses the same store.
    set_ambient(app.services)
    return app


def find_target(target: str | None = None) -> Target:
    """Where the application is. Raises NotFound, ConfigError."""
    if target:
        return _parse(target, Path.cwd(), named="")
    root = project_root()
    if (setting := load_settings(root).app) is not None:
        return _parse(setting, root, named=f'the setting "app" of "{root}"')
    found = [path for path in (root / "app.py",) if path.is_file()]
    found += sorted(path for path in root.glob("*.ipynb") if path.is_file())
    if len(found) == 1:
        return Target(root=root, path=found[0])
    if not found:
        raise NotFound(
            f'there is no application in "{root}"',
            hint="name one: app.py, analyst.ipynb; mastra-nb init makes a project",
        )
    names = ", ".join(f'"{path.name}"' for path in found)
    raise ConfigError(
        f"there are several applications: {names}",
        hint=f'name one, or write app = "{found[0].name}" in mastra.toml',
    )


def _parse(target: str, folder: Path, *, named: str) -> Target:
    match = _ATTRIBUTE.fullmatch(target)
    where, name = (match["where"], match["name"]) if match else (target, "")
    path = folder / Path(where).expanduser()
    if path.suffix not in (".py", ".ipynb"):
        if _DOTTED.fullmatch(where) and not path.exists():
            return Target(root=project_root(folder), module=where, name=name)
        raise UsageError(
            f'"{target}" is not an application',
            hint="app.py, app.py:name, package.module:name or analyst.ipynb",
        )
    path = Path(os.path.abspath(path))  # noqa: PTH100 (a link is another project's file)
    if not path.is_file():
        near = [p.name for kind in ("*.py", "*.ipynb") for p in path.parent.glob(kind)]
        said = f"{named} is" if named else "there is no file"
        raise NotFound(
            f'{said} "{target}"' + (", which is no file" if named else ""),
            hint=close_matches(path.name, near) or "give the path of a module or a notebook",
        )
    if path.suffix == ".ipynb" and name:
        raise UsageError(f'"{target}": a notebook is one application', hint=f"leave out :{name}")
    return Target(root=project_root(path), path=path, name=name)


# Modules

# What was imported from which file, by us.
_imported: dict[str, Path] = {}


def _module(target: Target) -> ModuleType:
    """Imported as a program of the project would import it."""
    if target.path is None:
        _on_path(target.root)
        _on_path(Path.cwd())
        return _import(target.module, target)
    package = target.path.parent
    names = [] if target.path.stem == "__init__" else [target.path.stem]
    while (package / "__init__.py").is_file():
        names.insert(0, package.name)
        package = package.parent
    _on_path(target.root)
    _on_path(package)
    name = ".".join(names)
    known = sys.modules.get(name)
    if known is not None and _file_of(known) == target.path:
        return known
    if known is not None and name in _imported:
        # Another project's module of this name.
        del sys.modules[name]
        known = None
    if known is None and _DOTTED.fullmatch(name) and _found_at(name) == target.path:
        _imported[name] = target.path
        return _import(name, target)
    return _from_file(target.path, target)


def _on_path(folder: Path) -> None:
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _found_at(name: str) -> Path | None:
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except Exception:  # a package's own error comes with the import itself
        return None if "." not in name else _imported.get(name)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _from_file(path: Path, target: Target) -> ModuleType:
    """One whose name is no module's, or another's."""
    name = "app_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _broken(target, error) from error
    return module


def _import(name: str, target: Target) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise _broken(target, error) from error


def _broken(target: Target, error: Exception) -> MastraError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        missing = error.name
        if target.module and (missing == target.module or target.module.startswith(missing + ".")):
            return NotFound(
                f'there is no module "{missing}"', hint="app.py names a file, package.module one"
            )
        hint = f'install "{missing.partition(".")[0]}", or add its folder to PYTHONPATH'
    else:
        hint = (
            "python " + (str(target.path) if target.path else f"-m {target.module}") + " shows it"
        )
    if isinstance(error, MastraError):
        what, hint = error.message, error.hint or hint
    elif isinstance(error, SyntaxError):
        what = f"{type(error).__name__}: {error.msg}"
    else:
        what = f"{type(error).__name__}: {error}"
    place = f", line {line}" if (line := _line(target, error)) else ""
    return UsageError(f'"{target}" cannot be loaded{place}: {what}', hint=hint, code="app.broken")


def _line(target: Target, error: Exception) -> int | None:
    file = str(target.path)
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def _module_app(module: ModuleType, target: Target) -> Mastra:
    mine = {n: v for n, v in vars(module).items() if not n.startswith("_")}
    if target.name:
        if target.name not in vars(module):
            known = [n for n, v in mine.items() if isinstance(v, Mastra)]
            raise NotFound(
                f'"{target}": there is no "{target.name}"', hint=close_matches(target.name, known)
            )
        found = vars(module)[target.name]
        if not isinstance(found, Mastra):
            raise UsageError(
                f'"{target}" is a {type(found).__name__}, not a Mastra',
                hint="app = Mastra(agents=[…]), or leave the name out",
            )
        return found
    made = app_in(mine, str(target))
    if made is not None:
        return made
    parts = parts_in(mine, str(target))
    if not (parts.agents or parts.workflows or parts.tools):
        raise UsageError(
            f'"{target}" defines no agent, workflow or tool',
            hint="an application is a variable of the module: app = Mastra(agents=[…])",
        )
    settings = load_settings(target.root)
    return Mastra(
        agents=parts.agents,
        workflows=parts.workflows,
        tools=parts.tools.values(),
        storage=default_storage(settings, target.root),
        settings=settings,
    )
