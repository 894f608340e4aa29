"""A whole server as the child of a replica: settings come as a line of JSON on stdin, the address goes out on stdout.

It ends when stdin does, as that of a replica that was killed. Run as `python -m embedway.cluster.child_main`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

from embedway.child_process import ChildFailed
from embedway.config import load_settings
from embedway.errors import StartupError
from embedway.observability.logs import configure_logging
from embedway.serve import Serving, serve


def main() -> int:
    settings = load_settings(json.loads(sys.stdin.readline()))
    configure_logging(settings.log_level, process="supervisor", log_format=settings.log_format)

    def end_with_parent() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    def tell(serving: Serving) -> None:
        print(json.dumps({"url": f"http://{serving.host}:{serving.port}"}), flush=True)  # noqa: T201 - to the replica
        threading.Thread(target=end_with_parent, daemon=True).start()

    try:
        return serve(settings, on_ready=tell)
    except (StartupError, ChildFailed) as error:
        print(json.dumps({"error": str(error)}), flush=True)  # noqa: T201
        return 2


if __name__ == "__main__":
    sys.exit(main())
