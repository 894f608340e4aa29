"""The output file and the error file of a batch that is under way, behind each other's last committed byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import msgspec

from embedway.batches.file_folder import FileFolder, sync, write_all
from embedway.batches.records import BatchRecord, Progress
from embedway.batches.results import Result


class Outputs:
    """Its methods block, and raise OSError. What was written is part of the batch once its progress is saved."""

    def __init__(self, folder: FileFolder, batch: BatchRecord) -> None:
        """Whatever was written and not committed before is dropped."""
        self.progress = batch.progress
        self._output = folder.open_at(batch.output_file_id, batch.progress.output_bytes)
        try:
            self._errors = folder.open_at(batch.error_file_id, batch.progress.error_bytes)
        except BaseException:
            self._output.close()
            raise

    def write(self, results: Sequence[Result]) -> Progress:
        """Put results, in their order, behind the others, safely onto the disk; how far the batch has come then."""
        completed = [result for result in results if result.is_completed]
        failed = [result for result in results if not result.is_completed]
        self._append(self._output, self.progress.output_bytes, completed)
        self._append(self._errors, self.progress.error_bytes, failed)
        self.progress = msgspec.structs.replace(
            self.progress,
            index_bytes=results[-1].index_end,
            output_bytes=self.progress.output_bytes + sum(result.size for result in completed),
            error_bytes=self.progress.error_bytes + sum(result.size for result in failed),
            completed=self.progress.completed + len(completed),
            failed=self.progress.failed + len(failed),
            input_tokens=self.progress.input_tokens + sum(result.tokens for result in results),
        )
        return self.progress

    def _append(self, file: BinaryIO, start: int, results: Sequence[Result]) -> None:
        if results:
            file.truncate(start)  # a write before may have failed half-way
            file.seek(start)
            for result in results:
                for piece in result.pieces:
                    write_all(file, piece)
            sync(file)

    def close(self) -> None:
        self._output.close()
        self._errors.close()
