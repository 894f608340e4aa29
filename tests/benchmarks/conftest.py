from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from recording_server import Recorder


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
