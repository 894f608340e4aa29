"""What is read of files as people have them: other encodings, broken ones, and folders with more in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from embedway.errors import InputUnreadable, InvalidSetting
from embedway.files import lines
from embedway.files.lines import Lines
from embedway.files.locations import Location
from embedway.files.reading import find_sources, read_pieces
from embedway.files.rows import Piece
from files.conftest import Run


def pieces_of(path: Path, piece_rows: int = 100) -> Iterator[Piece]:
    [source] = find_sources([str(path)], None)
    return read_pieces(source, 0, piece_rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "first\nsecond\n"),
        ("a.jsonl", '{"text": "first"}\n{"text": "second"}\n'),
        ("a.csv", "text\nfirst\nsecond\n"),
    ],
)
def test_the_mark_of_utf8_is_no_part_of_a_file_and_utf16_is_named(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8-sig")
    [piece] = pieces_of(path)
    assert (piece.table["text"].to_pylist(), piece.bad) == (["first", "second"], ())
    path.write_text(content, encoding="utf-16")
    with pytest.raises(InputUnreadable, match=rf"{name}: it is UTF-16: files must be UTF-8"):
        list(pieces_of(path))


def test_lines_of_json_with_nothing_but_spaces_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n \t\r\n{"text": "b"}\n')
    [piece] = pieces_of(tmp_path / "a.jsonl")
    assert (piece.rows.tolist(), piece.bad) == ([0, 1], ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'id,text\n1,fine\n2,"no end\n3,lost\n', "a quote that opens at line 3 or later has no end"),
        (b"id,text\r1,a\r", "line 1 is no CSV: new-line character"),
        (b"id,\xff\n1,a\n", "its first line, the names of the columns, is no UTF-8"),
        (b"id,text,text\n1,a,b\n", "two of its columns are called 'text'"),
    ],
)
def test_csv_that_cannot_be_read_as_it_is_meant_ends_the_run(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputUnreadable, match=rf"a\.csv: {says}"):
        list(pieces_of(tmp_path / "a.csv"))


def test_a_line_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + "x" * 2000)
    with pytest.raises(InputUnreadable, match="line 2 has more than 1000 bytes"):
        list(pieces_of(tmp_path / "a.jsonl"))


def test_parquet_with_two_columns_of_one_name_or_texts_that_are_no_utf8_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([["a"], ["b"]], ["text", "text"]), tmp_path / "twice.parquet")
    with pytest.raises(InputUnreadable, match=r"twice\.parquet: two of its columns are called 'text'"):
        list(pieces_of(tmp_path / "twice.parquet"))
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"a", b"\xff"]).buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "broken.parquet")
    with pytest.raises(InputUnreadable, match=r"broken\.parquet: in the rows from 0 on: .*Invalid UTF8"):
        list(pieces_of(tmp_path / "broken.parquet"))


def test_how_far_a_file_is_read_follows_its_lines_and_not_its_blocks(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456\r\n" * 100)
    with pyarrow.fs.LocalFileSystem().open_input_file(str(tmp_path / "a.txt")) as file:
        read = Lines(file, block_size=205)
        assert [read.position for _ in read] == [pytest.approx(9 * (i + 1), abs=9) for i in range(100)]
        assert read.position == 900
    assert [piece.bytes_read for piece in pieces_of(tmp_path / "a.txt", 25)] == [225, 450, 675, 900]


# ── inputs ──


def test_a_run_s_own_files_are_no_inputs(embed: Run, tmp_path: Path) -> None:
    """Else a run could not go on in the folder that it reads, nor be given again."""
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": ""}\n')
    output = tmp_path / "out.jsonl"
    for _ in range(2):
        embed([tmp_path], output)
        assert len(output.read_text().splitlines()) == 1
        assert (tmp_path / "out.jsonl.errors.jsonl").exists()
    (tmp_path / "out.jsonl.parts").mkdir()
    pq.write_table(pa.table({"text": ["of a part"]}), tmp_path / "out.jsonl.parts" / "part-00000000.parquet")
    with pytest.raises(InvalidSetting, match=r"--output: .*out\.jsonl is an input"):
        embed([output], output)
    assert json.loads(output.read_text())["text"] == "good"


def test_an_input_that_is_there_twice_is_named_however_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(InvalidSetting, match=r"a\.txt is there twice"):
        find_sources([str(tmp_path / "a.txt"), f"{tmp_path}/./a.txt"], None)


def test_names_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "\udcff.txt").write_text("a\n")
    with pytest.raises(InvalidSetting, match=r"the name .*\\udcff.txt is no UTF-8"):
        find_sources([str(tmp_path / "\udcff.txt")], None)
    with pytest.raises(InputUnreadable, match=str(tmp_path)):
        find_sources([str(tmp_path)], None)


def test_a_file_is_no_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InvalidSetting, match=r"--input-format: .*a\.png is no folder"):
        find_sources([str(tmp_path / "a.png")], "images")


def test_an_image_that_cannot_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"an image")
    [source] = find_sources([str(tmp_path)], None)

    def read(place: Location) -> bytes:
        raise PermissionError(13, "Permission denied", place.path)

    monkeypatch.setattr(Location, "read", read)
    with pytest.raises(InputUnreadable, match=r"a\.png: Permission denied"):
        list(read_pieces(source, 0, 10))


def test_rows_of_json_that_nest_too_deeply_to_be_written_are_bad(tmp_path: Path) -> None:
    deep = "[" * 300 + "]" * 300
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", "deep": {deep}}}\n{{"text": "b"}}\n')
    [piece] = pieces_of(tmp_path / "a.jsonl")
    assert [(bad.row, bad.reason) for bad in piece.bad] == [(0, "the row cannot be read: it is nested too deeply")]
