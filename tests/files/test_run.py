"""What goes in, what comes out, and what happens to a run that is ended in between."""

from __future__ import annotations

import contextlib
import csv
import errno
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import filelock
import lancedb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedway.errors import InputUnreadable, InvalidSetting, OutputUnwritable, RowFailed
from embedway.files.locations import Location, locate
from embedway.files.parts import Parts
from embedway.files.run import VectorForm
from embedway.files.texts import Columns
from embedway.files.vectors import Embedded, LocalVectors
from embedway.inputs.sequences import SequenceMaker
from embedway.models.interface import PackedBatch
from fake_model import DIMENSION, FakeModel
from files.conftest import Run

VectorOf = Callable[[str], npt.NDArray[np.float32]]
ROWS = [{"id": f"key {i}", "text": f"the text of number {i} " * (1 + i % 4), "n": i} for i in range(10)]


def write_rows(path: Path, rows: Sequence[Mapping[str, object]] = ROWS) -> Path:
    """In the format of its name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=4)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.csv", "a.tsv"])
def test_each_row_keeps_its_columns_and_gets_its_vector(
    embed: Run, vector_of: VectorOf, tmp_path: Path, name: str
) -> None:
    progress = embed([write_rows(tmp_path / name)], tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "text", "n", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), DIMENSION)
    as_text = name.endswith((".csv", ".tsv"))
    assert table.drop_columns("embedding").to_pylist() == [
        {**row, "n": str(row["n"])} if as_text else row for row in ROWS
    ]
    for row in table.to_pylist():
        np.testing.assert_array_equal(row["embedding"], vector_of(row["text"]))
    assert (progress.rows, progress.bad) == (10, 0)
    assert progress.bytes_done == progress.total_bytes == (tmp_path / name).stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.parquet"])


def test_lines_of_text_are_rows_and_their_numbers_are_their_keys(
    embed: Run, vector_of: VectorOf, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo words\r\nthree")
    embed([tmp_path / "a.txt"], tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["text"]) for row in rows] == [(0, "one"), (1, "two words"), (2, "three")]
    assert [row["embedding"] for row in rows] == [vector_of(row["text"]).tolist() for row in rows]


def test_several_inputs_and_folders_are_read_one_after_the_other(embed: Run, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.txt").write_text("of b\nof b, too\n")
    (folder / "a.jsonl").write_text('{"text": "of a"}\n')
    (folder / ".hidden.txt").write_text("nothing")
    single = write_rows(tmp_path / "c.csv", [{"text": "of c"}])
    embed([folder, single], tmp_path / "out.parquet", chunk_rows=100)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["text"].to_pylist() == ["of a", "of b", "of b, too", "of c"]
    assert table["id"].to_pylist() == [f"{folder}/a.jsonl:0", f"{folder}/b.txt:0", f"{folder}/b.txt:1", f"{single}:0"]


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.lance", "out.jsonl", "out.parquet"])
def test_every_output_has_the_same_vectors(embed: Run, vector_of: VectorOf, tmp_path: Path, name: str) -> None:
    output = tmp_path / "made" / name
    output.parent.mkdir()
    embed([write_rows(tmp_path / "a.jsonl")], output)
    expected = np.stack([vector_of(str(row["text"])) for row in ROWS])
    keys = [row["id"] for row in ROWS]
    if name == "out.npy":
        found = np.load(output)
    elif name == "out.npz":
        with np.load(output) as archive:
            found, found_keys = archive["vectors"], archive["ids"].tolist()
        assert found_keys == keys
    else:
        if name == "out.lance":
            table = lancedb.connect(output.parent).open_table("out").to_arrow()
        elif name == "out.jsonl":
            table = pa.Table.from_pylist([json.loads(line) for line in output.read_text().splitlines()])
        else:
            table = pq.read_table(output)
        assert table["id"].to_pylist() == keys
        found = np.array(table["embedding"].to_pylist())
    np.testing.assert_array_equal(found, expected)
    assert [path.name for path in output.parent.iterdir()] == [name]


@pytest.mark.parametrize("output_dtype", ["int8", "ubinary"])
def test_vectors_may_be_quantised_and_cut(embed: Run, tmp_path: Path, output_dtype: str) -> None:
    form = VectorForm(None, True, output_dtype)  # ty: ignore[invalid-argument-type]
    embed([write_rows(tmp_path / "a.jsonl")], tmp_path / "out.npy", form=form)
    found = np.load(tmp_path / "out.npy")
    assert (found.dtype, found.shape) == {"int8": (np.int8, (10, 8)), "ubinary": (np.uint8, (10, 1))}[output_dtype]


# ── columns ──


def test_columns_are_chosen_by_name(embed: Run, vector_of: VectorOf, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"url": "u", "title": "t", "body": "a body", "rest": 1}]
    columns = Columns("body", "url", ("title",), "vector")
    embed([write_rows(tmp_path / "a.parquet", rows)], tmp_path / "out.parquet", columns=columns)
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == [
        {"url": "u", "title": "t", "vector": vector_of("a body").tolist()}
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns("body", None, None, "embedding"), "--text-column: .*a.csv has no column 'body'; it has: id, text, n"),
        (Columns("text", "key", None, "embedding"), "--key-column: .*a.csv has no column 'key'"),
        (Columns("text", None, ("m",), "embedding"), "--columns: .*a.csv has no column 'm'"),
        (Columns("text", None, None, "n"), "--vector-column: .*a.csv has a column 'n' already"),
    ],
)
def test_a_column_that_is_not_there_ends_the_run(embed: Run, tmp_path: Path, columns: Columns, says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        embed([write_rows(tmp_path / "a.csv")], tmp_path / "out.parquet", columns=columns)
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns("text", "key", None, "embedding"), "--key-column: .* no column 'key' in its first 3 rows; it has: id"),
        (Columns("text", None, ("m",), "embedding"), "--columns: .* no column 'm' in its first 3 rows"),
    ],
)
def test_a_column_that_the_first_rows_of_json_have_not_ends_the_run(
    embed: Run, tmp_path: Path, columns: Columns, says: str
) -> None:
    with pytest.raises(InvalidSetting, match=says):
        embed([write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet", columns=columns)
    later = write_rows(tmp_path / "b.jsonl", [{"text": "b", "key": 1, "m": 2}, *[{"text": "a"}] * 9])
    embed([later], tmp_path / "out.parquet", columns=Columns("text", "key", ("m",), "embedding"))
    assert pq.read_table(tmp_path / "out.parquet")["key"].to_pylist() == [1, *[None] * 9]


def test_json_rows_may_differ_in_their_keys_and_types(embed: Run, tmp_path: Path) -> None:
    lines = [
        {"text": "a", "n": 1, "mixed": "x"},
        {"text": "b", "n": 1.5, "mixed": {"a": 1}},
        {"text": "c", "late": [1, 2]},
        {"text": "d", "n": None, "mixed": 3, "late": [3]},
    ]
    for chunk_rows in (1, 2, 4):
        output = tmp_path / f"out{chunk_rows}.parquet"
        embed([write_rows(tmp_path / "a.jsonl", lines)], output, chunk_rows=chunk_rows)
        table = pq.read_table(output)
        assert table["n"].to_pylist() == [1.0, 1.5, None, None]
        assert table["late"].to_pylist() == [None, None, [1, 2], [3]]
        mixed = table["mixed"].to_pylist()
        assert [value and json.loads(value.replace("x", '"x"') if value == "x" else value) for value in mixed] == [
            "x",
            {"a": 1},
            None,
            3,
        ]


# ── bad rows ──


def bad_file(tmp_path: Path) -> Path:
    path = tmp_path / "bad.jsonl"
    lines = ['{"text": "good"}', "{", '{"text": ""}', '{"other": 1}', "[1]", '{"text": 5}', '{"text": "good, too"}']
    path.write_bytes("\n".join([*lines, '{"text": "%s"}' % ("long " * 300)]).encode() + b'\n{"text": "\xff"}\n')
    return path


def test_bad_rows_are_listed_and_the_others_embedded(embed: Run, tmp_path: Path) -> None:
    for chunk_rows in (1, 4, 100):
        output = tmp_path / f"out{chunk_rows}.parquet"
        progress = embed([bad_file(tmp_path)], output, chunk_rows=chunk_rows)
        assert (progress.rows, progress.bad) == (2, 7)
        assert pq.read_table(output)["text"].to_pylist() == ["good", "good, too"]
        listed = [json.loads(line) for line in output.with_name(f"{output.name}.errors.jsonl").read_text().splitlines()]
        assert [(entry["input"], entry["row"]) for entry in listed] == [
            (str(tmp_path / "bad.jsonl"), row) for row in (1, 2, 3, 4, 5, 7, 8)
        ]
        says = ["column 2", "empty string", "is nothing", "no JSON object", "an integer", "at most 256 tokens", "UTF-8"]
        assert all(part in entry["error"] for part, entry in zip(says, listed, strict=True))


def test_lines_of_csv_with_too_few_columns_or_no_utf8_are_bad_rows(embed: Run, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,text\n1,"two\nlines"\n2\n3,\xff\n4,"said ""so"", he"\n')
    progress = embed([tmp_path / "a.csv"], tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table["id"].to_pylist(), table["text"].to_pylist()) == (["1", "4"], ["two\nlines", 'said "so", he'])
    assert progress.bad == 2


def test_rows_of_npy_keep_their_places(embed: Run, tmp_path: Path) -> None:
    embed([bad_file(tmp_path)], tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    assert np.flatnonzero(~np.isnan(found).any(axis=1)).tolist() == [0, 6]
    assert len(found) == 9


def test_a_row_on_which_the_model_fails_is_bad(
    embed: Run, tmp_path: Path, local_vectors: Callable[..., LocalVectors], sequences: SequenceMaker
) -> None:
    word = sequences.tokenizer.detokenize([FRAGILE_ID], skip_special_tokens=True)
    rows = [{"text": "fine"}, {"text": word}, {"text": "fine, too"}]
    progress = embed([write_rows(tmp_path / "a.jsonl", rows)], tmp_path / "out.npy", vectors=local_vectors(Fragile()))
    assert (progress.rows, progress.bad) == (2, 1)
    assert "NaN" in (tmp_path / "out.npy.errors.jsonl").read_text()


FRAGILE_ID = 2009
"""A word of the real tokenizer"""


class Fragile(FakeModel):
    def embed(self, batch: PackedBatch) -> npt.NDArray[np.float32]:
        vectors = super().embed(batch)
        starts = batch.cu_seqlens[:-1]
        vectors[np.add.reduceat(batch.token_ids == FRAGILE_ID, starts) > 0] = np.nan
        return vectors


def test_fail_fast_ends_at_the_first_bad_row(embed: Run, tmp_path: Path) -> None:
    with pytest.raises(RowFailed, match=r"bad.jsonl, row 1: .*--fail-fast") as failed:
        embed([bad_file(tmp_path)], tmp_path / "out.parquet", fail_fast=True)
    assert failed.value.exit_status == 1
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"INPUT: there are no rows in .*a\.jsonl"),
        ("\n\n", r"INPUT: there are no rows in .*a\.jsonl"),
        ('{"text": ""}\n', r"INPUT: no row has a vector; .*a\.jsonl, row 0: 'text' is an empty string"),
    ],
)
def test_an_input_without_a_good_row_is_an_error_and_leaves_nothing(
    embed: Run, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InvalidSetting, match=says):
        embed([tmp_path / "a.jsonl"], tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing.jsonl", InputUnreadable), ("broken.parquet", InputUnreadable), ("unknown.xyz", InvalidSetting)],
)
def test_an_input_that_cannot_be_read_is_named(embed: Run, tmp_path: Path, name: str, error: type[Exception]) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"PAR1 and no more")
    with pytest.raises(error, match=name):
        embed([tmp_path / name], tmp_path / "out.parquet")


# ── ended in between ──


class Ended(Exception):
    """A run is ended here."""


class EndingVectors:
    """Vectors of another, for so many pieces."""

    def __init__(self, vectors: LocalVectors, pieces: int) -> None:
        self._vectors, self._left = vectors, pieces
        self.prepare = vectors.prepare

    def embed(self, prepared: object) -> Embedded:
        if not self._left:
            raise Ended
        self._left -= 1
        return self._vectors.embed(prepared)  # ty: ignore[invalid-argument-type]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.integers(0, 3), max_size=4),
    chunk_rows=st.integers(1, 12),
    name=st.sampled_from(["jsonl", "csv", "parquet"]),
)
def test_a_run_that_is_ended_any_number_of_times_loses_and_doubles_nothing(
    embed: Run,
    local_vectors: Callable[..., LocalVectors],
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[int],
    chunk_rows: int,
    name: str,
) -> None:
    folder = tmp_path_factory.mktemp("ended")
    inputs = [write_rows(folder / f"a.{name}"), write_rows(folder / f"b.{name}")]
    output = folder / "out.parquet"
    kept: dict[str, int] = {}
    for count in pieces:
        with contextlib.suppress(Ended):
            embed(inputs, output, vectors=EndingVectors(local_vectors(), count), chunk_rows=chunk_rows)
        if output.exists():
            break
        parts = {path.name: path.stat().st_ino for path in (folder / "out.parquet.parts").glob("part-*.parquet")}
        assert kept.items() <= parts.items(), "what is finished is left alone"
        kept = parts
    if not output.exists():
        embed(inputs, output, chunk_rows=chunk_rows)
    table = pq.read_table(output)
    assert table["text"].to_pylist() == [row["text"] for row in ROWS] * 2
    assert [path.name for path in folder.iterdir() if "out" in path.name] == ["out.parquet"]


def test_another_run_does_not_go_on_with_the_parts(
    embed: Run, local_vectors: Callable[..., LocalVectors], tmp_path: Path
) -> None:
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    with pytest.raises(Ended):
        embed(*given, vectors=EndingVectors(local_vectors(), 1), manifest={"model": "one", "inputs": 1})
    with pytest.raises(InvalidSetting, match=r"out.parquet.parts is an unfinished run with other model: --restart"):
        embed(*given, manifest={"model": "another", "inputs": 1})
    embed(*given, manifest={"model": "one", "inputs": 1})
    assert len(pq.read_table(tmp_path / "out.parquet")) == 10


def test_a_run_that_has_finished_nothing_binds_nobody(
    embed: Run, local_vectors: Callable[..., LocalVectors], tmp_path: Path
) -> None:
    """Whoever mends an option after the first error is not asked to drop what is not there."""
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    with pytest.raises(Ended):
        embed(*given, vectors=EndingVectors(local_vectors(), 0), manifest={"columns": "one"})
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    embed(*given, manifest={"columns": "another"})


def test_a_broken_manifest_is_named(embed: Run, local_vectors: Callable[..., LocalVectors], tmp_path: Path) -> None:
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    with pytest.raises(Ended):
        embed(*given, vectors=EndingVectors(local_vectors(), 1))
    (tmp_path / "out.parquet.parts" / "manifest.json").write_text("{")
    with pytest.raises(InvalidSetting, match=r"manifest\.json is broken: --restart drops it"):
        embed(*given)


def test_progress_goes_on_where_the_earlier_run_ended(
    embed: Run, local_vectors: Callable[..., LocalVectors], tmp_path: Path
) -> None:
    """Else the time left is that of a run that does all in the time of its last rows."""
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    with pytest.raises(Ended):
        embed(*given, vectors=EndingVectors(local_vectors(), 2))
    done = sum(map(len, (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)[:6]))
    progress = embed(*given)
    assert progress.bytes_before == done
    assert progress.bytes_done == progress.total_bytes


def test_vectors_of_another_length_do_not_join_those_before(
    embed: Run, local_vectors: Callable[..., LocalVectors], tmp_path: Path
) -> None:
    """A server may have got another model of the same name."""
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    with pytest.raises(Ended):
        embed(*given, vectors=EndingVectors(local_vectors(), 1))
    with pytest.raises(InvalidSetting, match=r"--url: its vectors were .*\[8\] .*, and are .*\[4\]: --restart"):
        embed(*given, form=VectorForm(4, False))


def test_the_lock_s_file_goes_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards it may be another run's, and a third one would come in beside that."""
    parts, seen = Parts(locate(str(tmp_path / "out.npy"), "--output")), []
    really_release = filelock.FileLock.release

    def release(lock: filelock.FileLock, force: bool = False) -> None:
        seen.append(Path(lock.lock_file).exists())
        really_release(lock, force)

    monkeypatch.setattr(filelock.FileLock, "release", release)
    with parts.locked():
        assert (tmp_path / "out.npy.parts" / "lock").exists()
    assert seen[0] is False


def test_a_part_that_cannot_be_written_is_named_and_the_others_stay(
    embed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    really_write = pq.write_table

    def write(table: pa.Table, *arguments: object, **options: object) -> None:
        really_write(table, *arguments, **options)
        if table["n"].to_pylist() == [3, 4, 5]:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", write)
        with pytest.raises(OutputUnwritable, match=r"part-00000001\.parquet: No space left on device"):
            embed(*given)
    assert sorted(path.name for path in (tmp_path / "out.parquet.parts").iterdir()) == [
        "manifest.json",
        "part-00000000.parquet",
    ]
    assert embed(*given).rows_before == 3


def test_two_runs_at_once_do_not_write_one_output(embed: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    parts, refused = Parts(locate(str(output), "--output")), pytest.raises(InvalidSetting, match="another run")
    with parts.locked(), refused:
        embed([write_rows(tmp_path / "a.jsonl")], output)
    embed([tmp_path / "a.jsonl"], output)
    assert output.exists()


def test_what_a_killed_end_has_left_is_cleared_away(
    embed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the parts of a finished output are dropped: there is nothing to go on with."""
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / "out.parquet"
    really_delete, deleted = Location.delete, []

    def delete(place: Location) -> None:
        if place.name.startswith("part-"):
            deleted.append(place.name)
            if len(deleted) >= 2:
                raise Ended
        really_delete(place)

    with monkeypatch.context() as patched:
        patched.setattr(Location, "delete", delete)
        with pytest.raises(Ended):
            embed(*given)
    written = (tmp_path / "out.parquet").read_bytes()
    assert list((tmp_path / "out.parquet.parts").glob("part-*"))
    parts = Parts(locate(str(tmp_path / "out.parquet"), "--output"))
    assert not parts.has_begun
    with parts.locked():
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "out.parquet"]
    assert (tmp_path / "out.parquet").read_bytes() == written


@pytest.mark.parametrize("name", ["out.parquet", "out.lance", "out.npy"])
def test_an_output_that_was_being_written_is_written_again(
    embed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Killed while the parts are joined: what is half written is in nobody's way."""
    given = [write_rows(tmp_path / "a.jsonl")], tmp_path / name
    with monkeypatch.context() as patched:
        patched.setattr("embedway.files.run.join", lambda *_, **__: (_ for _ in ()).throw(Ended))
        with pytest.raises(Ended):
            embed(*given)
    (tmp_path / f"{name}.unfinished").write_bytes(b"half")
    (tmp_path / f"{name}.unfinished-database").mkdir()
    (tmp_path / f"{name}.unfinished-database" / "x").write_bytes(b"half")
    progress = embed(*given)
    assert (progress.rows, progress.rows_before) == (0, 10)
    assert (tmp_path / name).exists()
