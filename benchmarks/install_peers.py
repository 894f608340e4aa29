"""Make the peers' virtual environments: python -m benchmarks.install_peers [NAME …]

Without names all that are missing are made; a name that is given is made anew. About 8 GB together, in the user's cache
folder; a peer that cannot be installed is reported and left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.peer_environments import ENVIRONMENTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    names = parser.parse_args().names
    if unknown := set(names) - set(ENVIRONMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(ENVIRONMENTS)}")
    wanted = [ENVIRONMENTS[name] for name in names] or [e for e in ENVIRONMENTS.values() if not e.is_installed]
    failed = []
    for environment in wanted:
        print(f"{environment.name}: {environment.folder}", flush=True)
        try:
            environment.install()
        except subprocess.CalledProcessError:
            failed.append(environment.name)
    if failed:
        sys.exit(f"could not be installed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
