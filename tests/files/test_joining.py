"""Values of all kinds in all outputs: each as it is, or as a text that says the same."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Iterator
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embedway.errors import InvalidSetting, OutputUnwritable
from embedway.files import joining
from embedway.files.joining import output_format
from embedway.files.locations import locate
from embedway.files.texts import Columns
from files.conftest import Run

MOMENT = dt.datetime(2020, 1, 1, 1, 2, 3, tzinfo=dt.timezone.utc)
ODD = {
    "date": (pa.array([dt.date(2020, 1, 1)]), "2020-01-01"),
    "zoned": (pa.array([MOMENT], pa.timestamp("us", "Europe/Berlin")), "2020-01-01T02:02:03+01:00"),
    "fine": (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
    "fine_time": (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    "far": (pa.array([400_000_000_000], pa.timestamp("s")), "14645-06-30T15:06:40.000"),
    "decimal": (pa.array([decimal.Decimal("1.50")]), "1.50"),
    "binary": (pa.array([b"\x00\xff"]), "AP8="),
    "nested": (pa.array([[{"a": [1]}]]), [{"a": [1]}]),
    "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [["k", 1]]),
    "null": (pa.nulls(1), None),
    "dictionary": (pa.array(["a"]).dictionary_encode(), "a"),
    "large": (pa.array(["a"], pa.large_string()), "a"),
    "unsigned": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "nan": (pa.array([np.nan]), None),
}


@pytest.mark.parametrize("name", ["out.jsonl", "out.npy", "out.npz", "out.parquet", "out.lance"])
def test_columns_of_all_types_are_kept(embed: Run, tmp_path: Path, name: str) -> None:
    table = pa.table({"id": ["a"], "text": ["a text"], **{column: values for column, (values, _) in ODD.items()}})
    pq.write_table(table, tmp_path / "a.parquet")
    output = tmp_path / name
    embed([tmp_path / "a.parquet"], output)
    if name == "out.jsonl":
        [row] = map(json.loads, output.read_text().splitlines())
        assert {column: row[column] for column in ODD} == {column: written for column, (_, written) in ODD.items()}
    elif name == "out.parquet":
        read = pq.read_table(output)
        stored = pq.read_table(tmp_path / "a.parquet")
        assert [read.schema.field(column).type for column in ODD] == [
            stored.schema.field(column).type for column in ODD
        ]
        assert read["binary"].to_pylist() == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (pa.array([2**63, 1], pa.uint64()), np.array([2**63, 1], np.uint64)),
        (pa.array([1, None]), np.array(["1", ""])),
        (pa.array([[1], [2, 3]]), np.array(["[1]", "[2,3]"])),
        (pa.array([b"a\x00", b"b"]), np.array(["YQA=", "Yg=="])),
        (pa.array([1, 2], pa.timestamp("ns")), np.array([f"1970-01-01T00:00:00.00000000{i}" for i in (1, 2)])),
    ],
)
def test_keys_in_npz_are_numbers_or_texts(embed: Run, tmp_path: Path, keys: pa.Array, expected: np.ndarray) -> None:
    pq.write_table(pa.table({"id": keys, "text": ["a", "b"]}), tmp_path / "a.parquet")
    embed([tmp_path / "a.parquet"], tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_array_equal(archive["ids"], expected, strict=True)


def test_keys_of_parts_with_other_types_lose_nothing(embed: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"id": 2**63 + 1, "text": "a"}, {"id": -1, "text": "b"})
    embed([tmp_path / "a.jsonl"], tmp_path / "out.npz", chunk_rows=1)
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["ids"].tolist() == ["9223372036854775809", "-1"]


def write_lines(path: Path, *rows: dict[str, object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("chunk_rows", [1, 2])
@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([2**53 + 1, 1.5], ["9007199254740993", "1.5"]),
        ([{}, {"a": 1}], None),
        ([{}, None], ["{}", None]),
        ([[{}], None], ["[{}]", None]),
        ([1, 2.5], [1.0, 2.5]),
    ],
)
def test_what_has_no_type_together_becomes_texts(
    embed: Run, tmp_path: Path, values: list[object], kept: list[object] | None, chunk_rows: int
) -> None:
    write_lines(tmp_path / "a.jsonl", *({"text": "a", "v": value} for value in values))
    embed([tmp_path / "a.jsonl"], tmp_path / "out.parquet", chunk_rows=chunk_rows)
    found = pq.read_table(tmp_path / "out.parquet")["v"].to_pylist()
    if kept is None:  # in one part the second lends the first its fields
        kept = [{"a": None}, {"a": 1}] if chunk_rows == 2 else ["{}", '{"a":1}']
    assert found == kept


def test_values_that_nest_deeper_than_parquet_can_are_texts(embed: Run, tmp_path: Path) -> None:
    deep = json.loads("[" * 120 + "]" * 120)
    write_lines(tmp_path / "a.jsonl", {"text": "a", "v": deep})
    embed([tmp_path / "a.jsonl"], tmp_path / "out.parquet")
    [found] = pq.read_table(tmp_path / "out.parquet")["v"].to_pylist()
    assert json.loads(found) == deep


@pytest.mark.parametrize("chunk_rows", [1, 2, 4])
def test_rows_without_a_key_beside_others_have_none_in_any_part(embed: Run, tmp_path: Path, chunk_rows: int) -> None:
    """Their numbers could be keys of other rows."""
    write_lines(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b"}, {"id": 0, "text": "c"}, {"text": "d"})
    embed([tmp_path / "a.jsonl"], tmp_path / "out.parquet", chunk_rows=chunk_rows)
    assert pq.read_table(tmp_path / "out.parquet")["id"].to_pylist() == [None, None, 0, None]


# ── places ──


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder.parquet", "is a folder: it is not replaced"),
        ("folder.lance", "is a folder, and no LanceDB table: it is not replaced"),
        ("a table.lance", "is no name of a LanceDB table"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, says: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidSetting, match=f"--output: .*{name} {says}"):
        output_format(locate(str(tmp_path / name), "--output"))


def test_a_lancedb_table_is_replaced(embed: Run, tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "a.txt").write_text(text)
        embed([tmp_path / "a.txt"], tmp_path / "out.lance")
    assert lancedb.connect(tmp_path).open_table("out").to_arrow()["text"].to_pylist() == ["second"]


def test_a_column_that_lancedb_refuses_is_named_before_anything_is_written(embed: Run, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"text": "a", "v.w": 1})
    with pytest.raises(InvalidSetting, match=r"--columns: 'v\.w' cannot be a column of LanceDB"):
        embed([tmp_path / "a.jsonl"], tmp_path / "out.lance")
    embed([tmp_path / "a.jsonl"], tmp_path / "out.lance", columns=Columns("text", None, ("text",), "vector"))


def test_what_lancedb_raises_is_one_line(embed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("a")

    def broken(*_: object) -> Iterator[pa.Table]:
        raise pa.ArrowInvalid("there is no such table")
        yield

    monkeypatch.setattr(joining, "tables", broken)
    with pytest.raises(OutputUnwritable, match=r"cannot write .*out\.lance: .*there is no such table"):
        embed([tmp_path / "a.txt"], tmp_path / "out.lance")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "out.lance.parts"]
