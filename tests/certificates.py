"""Certificates that openssl makes, signed by themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def make_certificate(certificate: Path, key: Path, name: str = "IP:127.0.0.1") -> None:
    """Write both, for an address (`IP:…`) or a host (`DNS:…`). Skips the test where there is no openssl."""
    who = ("-subj", "/CN=test", "-addext", f"subjectAltName={name}")
    files = ("-keyout", str(key), "-out", str(certificate))
    try:
        subprocess.run(["openssl", "req", "-x509", *KEY, *who, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes the certificate, is not installed")
