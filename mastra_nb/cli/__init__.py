"""The command `mastra-nb`."""

from __future__ import annotations


def main() -> None:
    # A command imports what it needs when it is run.
    from mastra_nb.cli._group import cli

    cli(prog_name="mastra-nb")
