"""Where a project that was built as a wheel begins."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mastra_nb.cli import main
from mastra_nb.config import dotenv, file_settings

# The module of the wheel that its script calls.
ENTRY = '''\
"""{name}: what `mastra-nb build --target wheel` made."""

from pathlib import Path


def main() -> None:
    from mastra_nb.cli._packaged import serve

    serve(Path(__file__).parent / "project", {target!r})


if __name__ == "__main__":
    main()
'''


def serve(project: Path, target: str) -> None:
    """`mastra-nb serve` of what is installed, with the rest of the command line as its options.

    Keys are those of the environment and of the current folder's `.env`, runs are kept in that
    folder's mastra.db: where it is installed nothing is written.
    """
    here = Path.cwd()
    for name, value in dotenv(here).items():
        os.environ.setdefault(name, value)
    if not {"DATABASE_URL", "MASTRA_NB_STORAGE"} & {*os.environ} and keeps_a_file(project):
        os.environ["DATABASE_URL"] = f"sqlite:///{here.as_posix()}/mastra.db"
    os.chdir(project)
    sys.argv[1:] = ["serve", target, *sys.argv[1:]]
    main()


def keeps_a_file(project: Path) -> bool:
    """Whether its store is a file, and none of a server of databases that it names itself."""
    return str(file_settings(project).get("storage", "sqlite:")).startswith("sqlite:")
