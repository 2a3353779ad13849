"""`python -m mastra_nb` is the command `mastra-nb`."""

from __future__ import annotations

from mastra_nb.cli import main

if __name__ == "__main__":
    main()
