"""A server of a few lines for the benchmarks' clients."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Recorder(ThreadingHTTPServer):
    """Answers with the body that it got; 400 to a body with `refuse` in it, and hangs up on `hang up`.

    It answers nothing before `hold_until` requests have come.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.inputs: list[object] = []
        self.hold_until = 0
        self.came = threading.Condition()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        given = json.loads(body)["input"]
        recorder = self.server
        assert isinstance(recorder, Recorder)
        with recorder.came:
            recorder.inputs.append(given)
            recorder.came.notify_all()
            recorder.came.wait_for(lambda: len(recorder.inputs) >= recorder.hold_until)
        if given == "hang up":
            self.close_connection = True
            return
        self.send_response(400 if given == "refuse" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass
