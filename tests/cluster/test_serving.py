"""`embedway serve --ray` as it is typed."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx

from free_port import free_port


def test_it_serves_on_a_cluster_of_this_machine_and_drains_at_sigterm() -> None:
    port = free_port()
    command = [sys.executable, "-m", "embedway", "serve", "--ray", "--port", str(port), "--api-key", "secret"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if "Embedway on Ray is ready" in line)
        assert f"http://127.0.0.1:{port}, serving sentence-transformers/all-MiniLM-L6-v2" in ready
        url = f"http://127.0.0.1:{port}/v1/embeddings"
        body = {"model": "sentence-transformers/all-MiniLM-L6-v2", "input": "a text"}
        for key, status in (("secret", 200), ("wrong", 401)):
            answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
            assert answer.status_code == status
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait(60) == 0
