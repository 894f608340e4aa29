"""`embedway serve` in processes of its own, for the benchmarks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

import psutil


class ServerProcess:
    """Made once the server is ready, on a free port of the loopback address."""

    def __init__(self, *arguments: str) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "embedway", "serve", *arguments, "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := re.search(r"is ready at (http://\S+)", line):
                self.url = match.group(1)
                break
        else:
            raise RuntimeError("the server did not start")
        self.seconds_to_ready = time.perf_counter() - began

    def post(self, path: str, body: object) -> dict:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens that the model reads of these texts: cut to its length."""
        limit = self.post("/tokenize", {"prompt": "a"})["max_model_len"]
        counts = [
            count
            for i in range(0, len(texts), 1024)
            for count in self.post("/tokenize", {"prompt": list(texts[i : i + 1024])})["count"]
        ]
        return sum(min(count, limit) for count in counts)

    def resident_mb(self) -> int:
        """Memory of all processes, in MB of 10⁶ bytes."""
        root = psutil.Process(self._process.pid)
        return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)]) // 10**6

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)
