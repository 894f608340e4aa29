"""Ray Data's checkpoints, made safe at any moment of a kill.

Before Ray Data writes a file of rows it writes their ids as a pending checkpoint, and moves that to its final name once
the rows are there. A job that goes on deletes the rows of pending checkpoints, and leaves out those of final ones.
"""

from __future__ import annotations

import copy
from typing import Any

from pyarrow.fs import FileSelector
from ray.data import Dataset
from ray.data._internal.logical.operators import ListFiles, Read
from ray.data.checkpoint import CheckpointConfig, IdColumnCheckpointManager
from ray.data.checkpoint.checkpoint_writer import PENDING_CHECKPOINT_SUFFIX

from embedway.errors import InvalidSetting

ENDING = ".parquet"
PENDING_ENDING = PENDING_CHECKPOINT_SUFFIX + ENDING


class Checkpoints(IdColumnCheckpointManager):
    """Takes rows for written only where no checkpoint of theirs is pending.

    There are both where a kill came between the copy and the deletion that are a move on S3, or while a task that had
    been taken for lost wrote its rows again. Ray by itself deletes such rows, and leaves them out, too.
    """

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        selector = FileSelector(self.checkpoint_path_unwrapped, allow_not_found=True)
        paths = {info.path for info in self.filesystem.get_file_info(selector)}
        for pending in paths:
            final = pending.removesuffix(PENDING_ENDING) + ENDING
            if pending.endswith(PENDING_ENDING) and final in paths:
                self.filesystem.delete_file(final)
        return super().load_checkpoint(*args, **kwargs)


def with_checkpoints(dataset: Dataset, config: CheckpointConfig) -> Dataset:
    """A copy of the dataset: itself may still be written elsewhere without checkpoints.

    Raises InvalidSetting where Ray would leave out nothing of what is written, and not say so.
    """
    sources = dataset._logical_plan.sources()  # noqa: SLF001 - nothing public tells them
    if any(not isinstance(source, Read | ListFiles) for source in sources):
        problem = "needs a dataset that Ray Data reads, such as by read_parquet: rows in memory are not left out"
        raise InvalidSetting(setting="checkpoint", problem=problem)
    config = copy.copy(config)
    config.checkpoint_manager_cls = config.checkpoint_manager_cls or Checkpoints
    dataset = Dataset.copy(dataset, _deep_copy=True)
    dataset.context.checkpoint_config = config
    return dataset
