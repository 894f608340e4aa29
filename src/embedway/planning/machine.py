"""What one machine does: the time of a batch, and what a request costs beside it; given, read, or measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedway.config import Settings
from embedway.engine.batch_time_model import BatchTime, BatchTimeModel, Coefficients
from embedway.engine.scheduler import TARGET_BATCH_MS
from embedway.errors import InvalidSetting

PATH_MS = 1.0
"""A lone query beside its batch: HTTP, JSON, tokenizer, sockets, and their client on the same cores"""
SHARED_MS = 0.5
"""Of the model's time, taken by a request's other work where all share two cores: 0.3 and 1.0 on two CPUs"""


@dataclass(frozen=True, slots=True)
class Machine:
    """One server with one engine."""

    costs: Coefficients
    """Milliseconds of a batch"""
    source: str
    """Where they come from, in words"""
    path_ms: float = PATH_MS
    """Of every request's latency, beside its waiting and its batch"""
    shared_ms: float = SHARED_MS
    """What every request adds to the batch that it is in"""
    target_ms: float = TARGET_BATCH_MS["cpu"]
    max_batch_tokens: int = Settings.model_fields["max_batch_tokens"].default

    def bulk_tokens_per_second(self, length: int) -> float:
        """On full batches of sequences of so many tokens."""
        each = self.costs.variable(length, length**2)
        num_that_fit = int((self.target_ms - self.costs.fixed) / each)
        count = max(1, min(num_that_fit, self.max_batch_tokens // length))
        return 1000 * count * length / (self.costs.fixed + count * each)


def of_throughput(tokens_per_second: float, fixed_ms: float) -> Coefficients:
    """A straight line: a batch takes `fixed_ms`, and then its tokens at full speed."""
    return Coefficients(fixed_ms, 1000 / tokens_per_second, 0.0)


def of_bench(path: Path) -> Coefficients:
    """From `embedway bench --json`: with c requests at a time, c of them are answered in the time of a batch of c.

    What API processes and client took is in these times. Raises InvalidSetting.
    """
    try:
        bench: dict[str, Any] = json.loads(path.read_bytes())
        items, loads = int(bench["items_per_request"]), bench["loads"]
        closed = [one for one in loads if one["concurrency"] and one["answered"] and one["tokens_per_second"]]
        samples: list[BatchTime] = []
        length = 0.0
        for one in closed:
            count, per_second = one["concurrency"], one["requests_per_second"]
            tokens = one["tokens_per_second"] / per_second
            length = tokens / items
            samples.append(BatchTime(round(count * tokens), count * items * length**2, 1000 * count / per_second))
    except OSError as error:
        raise InvalidSetting(setting="--bench", problem=f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{path} is not what `embedway bench --json` prints"
        raise InvalidSetting(setting="--bench", problem=problem) from error
    if len({one.num_tokens for one in samples}) < 2:
        problem = f"{path} has fewer than two closed loads: embedway bench --concurrency 1,16 --json"
        raise InvalidSetting(setting="--bench", problem=problem)
    costs = BatchTimeModel(samples).coefficients
    # Texts of one length cannot tell tokens from squares: the line holds for that length.
    return Coefficients(costs.fixed, costs.per_token + costs.per_square * length, 0.0)


def measure(name: str) -> Coefficients:
    """Load a model as the server does and run its first batches. Raises what loading raises."""
    from embedway.declared_model import find_model
    from embedway.engine.warm_up import Samples, warm_up
    from embedway.models.architectures import load_model
    from embedway.models.cpu_threads import available_cores

    _, spec = find_model(
        name,
        revision=None,
        download_dir=None,
        pooling=None,
        max_length=None,
        chat_template=None,
        trust_remote_code=False,
    )
    model = load_model(spec, dtype="auto", device="auto", threads=available_cores())
    return warm_up(model, Samples.of(spec)).coefficients
