"""Files on S3, as moto serves it, and in fsspec's file systems."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from embedway.errors import InvalidSetting, OutputUnwritable
from embedway.files.locations import locate, writable
from embedway.files.texts import Columns
from files.conftest import Run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of one, with two files, and the query that leads Arrow to its server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    for name in ("a", "b"):
        lines = [json.dumps({"id": f"{name}{i}", "text": f"number {i} of {name}"}) for i in range(5)]
        client.put_object(Bucket="bucket", Key=f"in/{name}.jsonl", Body="\n".join(lines).encode())
    yield f"s3://bucket/%s?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    client.close()
    server.stop()


def test_from_s3_to_s3_and_back(embed: Run, tmp_path: Path, bucket: str) -> None:
    embed([bucket % "in"], bucket % "out/vectors.parquet")
    embed([bucket % "out/vectors.parquet"], tmp_path / "again.jsonl", columns=AGAIN)
    rows = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"{name}{i}" for name in "ab" for i in range(5)]
    assert all(row["embedding"] == row["vector"] for row in rows)
    left = locate(bucket % "out", "INPUT").children(recursive=True)
    assert [place.name for place in left] == ["vectors.parquet"]


AGAIN = Columns("text", None, None, "vector")


def test_file_systems_of_fsspec(embed: Run, tmp_path: Path) -> None:
    with fsspec.open("memory://folder/a.txt", "w") as file:
        file.write("one\ntwo\n")
    embed(["memory://folder/a.txt"], "memory://folder/out.parquet")
    with fsspec.open("memory://folder/out.parquet", "rb") as file:
        assert pq.read_table(file)["text"].to_pylist() == ["one", "two"]


def test_a_file_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Where the disk is full, that takes the room which is missing."""
    place = locate(str(tmp_path / "a"), "--output")

    def write() -> None:
        with writable(place), place.written() as stream:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    with pytest.raises(OutputUnwritable, match=r"cannot write .*/a: No space left on device\. Once that is mended"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_scheme_that_nobody_reads_is_named() -> None:
    with pytest.raises(InvalidSetting, match="INPUT: nothing here reads nowhere://"):
        locate("nowhere://a/b", "INPUT")
