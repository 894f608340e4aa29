"""HTTPS with certificates that openssl makes."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from certificates import make_certificate
from running_server import RunningServer

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
PASSWORD = "pass-marker-5817"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """server, other: a key and a certificate for 127.0.0.1 each, signed by itself; locked: server's key, locked."""
    folder = tmp_path_factory.mktemp("tls")
    for who in ("server", "other"):
        make_certificate(folder / f"{who}.pem", folder / f"{who}.key")
    lock = ["openssl", "ec", "-in", f"{folder}/server.key", "-aes256", "-passout", f"pass:{PASSWORD}"]
    subprocess.run([*lock, "-out", f"{folder}/locked.key"], check=True, capture_output=True)
    return folder


def test_https_is_served_to_clients_with_a_certificate_and_to_no_others(folder: Path) -> None:
    files = ["--ssl-certfile", f"{folder}/server.pem", "--ssl-keyfile", f"{folder}/locked.key"]
    environment = {"EMBEDWAY_SSL_KEYFILE_PASSWORD": PASSWORD}
    with RunningServer(*files, "--ssl-ca-certs", f"{folder}/other.pem", environment=environment) as server:
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=f"{folder}/server.pem")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/livez", verify=trusting)
        trusting.load_cert_chain(f"{folder}/other.pem", f"{folder}/other.key")
        with httpx.Client(verify=trusting, base_url=server.url, timeout=60) as client:
            answer = client.post("/v1/embeddings", json={"model": MODEL, "input": ["a"] * 2048})
            assert len(answer.json()["data"]) == 2048
            assert PASSWORD not in client.get("/server_info").text
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/livez")
        assert PASSWORD not in "".join(server.log)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--ssl-certfile", "no.pem"], "--ssl-certfile: no.pem cannot be read"),
        (["--ssl-certfile", "server.pem"], "--ssl-certfile"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "other.key"], "no certificate and its key"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "locked.key"], "--ssl-keyfile-password"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "no.key"], "--ssl-keyfile: no.key cannot be read"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certs", "server.key"], "ca-certs"),
        (["--ssl-keyfile", "server.key"], "--ssl-keyfile: is of no use without --ssl-certfile"),
    ],
)
def test_files_that_do_not_serve_end_the_start_with_their_name(folder: Path, flags: list[str], says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "embedway", "serve", "--port", "0", *flags],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=60,
        env={**os.environ, "COLUMNS": "500"},
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
