"""Why an image or a video is refused, before it is known which field of which request it came in."""

from __future__ import annotations

import msgspec

from embedway.errors import MediaTooLarge, MediaUnreadable, RequestError
from embedway.visual import KIND_IN_WORDS, MediaKind


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """The values of a MediaUnreadable, or, where a limit is named, of a MediaTooLarge."""

    problem: str
    limit: str = ""
    flag: str = ""

    def as_error(self, kind: MediaKind, param: str) -> RequestError:
        if self.limit:
            return MediaTooLarge(param=param, problem=self.problem, limit=self.limit, flag=self.flag)
        return MediaUnreadable(param=param, kind=KIND_IN_WORDS[kind], problem=self.problem)


class MediaRefused(Exception):
    """Raised by all that decodes."""

    def __init__(self, problem: str, *, limit: str = "", flag: str = "") -> None:
        super().__init__(problem)
        self.refusal = Refusal(problem, limit, flag)
