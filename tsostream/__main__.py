"""``tsostream`` and ``python -m tsostream``."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line; leaves the process with its exit code."""
    from tsostream.cli.app import tsostream

    tsostream.main(prog_name="tsostream")


if __name__ == "__main__":
    main()
