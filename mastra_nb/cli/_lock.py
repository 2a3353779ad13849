"""The exact versions that a project needs: those that are installed here, and tried out here.

It is the closure of the project's requirements over the metadata of the installed distributions,
with the markers of the target (Linux, this Python). Nothing is asked of a registry. What is
installed from a folder, as a checkout is, is to be packed, for nobody else has it.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import mastra_nb
from mastra_nb.errors import ConfigError

OURS = "mastra-nb"
_TARGET = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """`pinned` is name -> the line of requirements.lock, `unpinned` are requirements of the target
    that are not installed here, `wheels` are distributions to pack, by name.
    """

    pinned: dict[str, str]
    unpinned: list[str]
    versions: dict[str, str]
    local: list[str]

    def text(self, *, about: str) -> str:
        lines = [f"# {about}", *(line for _, line in sorted(self.pinned.items()))]
        if self.unpinned:
            lines += ["# Not installed where this was built:", *sorted(self.unpinned)]
        return "\n".join(lines) + "\n"


def _project_table(root: Path) -> dict[str, Any]:
    path = root / "pyproject.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f'"{path}" is not valid TOML: {error}') from None
    return dict(table.get("project", {}))


def project_version(root: Path) -> str:
    """Raises ConfigError."""
    return str(_project_table(root).get("version", "0.0.0"))


def project_requirements(root: Path) -> list[str]:
    """Of pyproject.toml and requirements.txt, and what a server needs. Raises ConfigError."""
    found: list[str] = [*_project_table(root).get("dependencies", ())]
    listed = root / "requirements.txt"
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8-sig").splitlines():
            line = re.sub(r"(^|\s)#.*", "", line).strip()
            if line.startswith("-"):
                raise ConfigError(
                    f'"{listed}" has the option "{line}", which cannot be locked',
                    hint="write its requirements down one by one",
                )
            if line:
                found.append(line)
    return [*found, f"{OURS}[server]"]


def lock(requirements: Iterable[str]) -> Lock:
    """Raises ConfigError for what is not installed here, or in another version than asked for."""
    pinned: dict[str, str] = {}
    versions: dict[str, str] = {}
    unpinned: dict[str, str] = {}
    local: list[str] = []
    done: set[tuple[str, str]] = set()
    queue = [(_requirement(text), "") for text in requirements]
    while queue:
        wanted, by = queue.pop()
        name = canonicalize_name(wanted.name)
        found = distribution(name)
        if found is None:
            if not by:
                raise ConfigError(
                    f'the project needs "{wanted}", which is not installed here',
                    hint=f'pip install "{wanted}": what is deployed is what was tried out',
                )
            unpinned[name] = str(wanted)
            continue
        if not wanted.specifier.contains(found.version, prereleases=True):
            raise ConfigError(
                f'{by or "the project"} needs "{wanted}", and {found.version} is installed',
                hint=f'pip install "{wanted}"',
            )
        versions[name], pinned[name] = found.version, found.line
        if found.is_local and name not in local:
            local.append(name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in done:
                continue
            done.add((name, extra))
            queue += [(each, name) for each in _needs(found.requires, extra)]
    return Lock(
        pinned=pinned,
        unpinned=[text for name, text in unpinned.items() if name not in pinned],
        versions=dict(sorted(versions.items())),
        local=sorted(local),
    )


def _requirement(text: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(f'"{text}" is no requirement: {error}') from None


def _needs(requires: Iterable[str], extra: str) -> Iterator[Requirement]:
    environment: dict[str, str] = {**_here(), **_TARGET}
    for text in requires:
        wanted = Requirement(text)
        plain = wanted.marker is None or wanted.marker.evaluate({**environment, "extra": ""})
        if plain and extra:
            continue  # it came with the distribution itself
        if plain or (
            wanted.marker is not None and wanted.marker.evaluate({**environment, "extra": extra})
        ):
            wanted.marker = None
            yield wanted


def _here() -> dict[str, str]:
    return msgspec.convert(default_environment(), dict[str, str])


class Found(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    requires: list[str]
    line: str
    is_local: bool


def distribution(name: str) -> Found | None:
    try:
        known = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return _checkout() if name == OURS else None
    direct = json.loads(known.read_text("direct_url.json") or "{}")
    line, is_local = f"{name}=={known.version}", "dir_info" in direct
    if "vcs_info" in direct:
        info = direct["vcs_info"]
        line = f"{name} @ {info['vcs']}+{direct['url']}@{info['commit_id']}"
    elif "archive_info" in direct and not direct["url"].startswith("file:"):
        line = f"{name} @ {direct['url']}"
    elif "archive_info" in direct:
        is_local = True
    return Found(version=known.version, requires=known.requires or [], line=line, is_local=is_local)


def _pyproject() -> dict[str, object]:
    """That of the checkout that this package is run from."""
    path = Path(mastra_nb.__file__).parents[1] / "pyproject.toml"
    found: dict[str, object] = {}
    if path.is_file():
        found = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return found if found.get("name") == OURS else {}


def _checkout() -> Found:
    project = _pyproject()
    if not project:
        raise ConfigError(
            f"{OURS} is not installed as a package", hint='pip install "mastra-nb[server]"'
        )
    return Found(
        version=mastra_nb.__version__,
        requires=_metadata_requires(project),
        line=f"{OURS}=={mastra_nb.__version__}",
        is_local=True,
    )


def _metadata_requires(project: dict[str, object]) -> list[str]:
    made = msgspec.convert(project.get("dependencies", []), list[str])
    extras = msgspec.convert(project.get("optional-dependencies", {}), dict[str, list[str]])
    for extra, needs in extras.items():
        for need in needs:
            text, _, marker = need.partition(";")
            both = f"({marker.strip()}) and " if marker else ""
            made.append(f'{text.strip()}; {both}extra == "{extra}"')
    return made
