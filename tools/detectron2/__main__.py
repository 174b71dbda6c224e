"""`python -m tools.detectron2 [install | build | table]`, from the top of the checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys

from . import install, mends, source


def main() -> int:
    """Entry point; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.detectron2", description=install.__doc__)
    parser.add_argument(
        "action",
        nargs="?",
        default="install",
        choices=["install", "build", "table"],
        help="install: into this environment unless one is there (default); build: the wheel only;"
        " table: print the mends as a Markdown table",
    )
    action = parser.parse_args().action
    try:
        if action == "install":
            print(install.install())
        elif action == "build":
            print(install.build_wheel())
        else:
            print(mends.table())
    except (source.SourceError, mends.MendError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(
            f"error: pip could not install the wheel (exit code {error.returncode}).",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
