"""One line a log record, to stderr; the request id where there is one."""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str, *, process: str) -> None:
    """Send this process's records to stderr at `level` (a name of the logging module, any case)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s [{process}] %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "huggingface_hub", "transformers", "uvicorn.error", "asyncio"):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))
