"""What the string that a client gave stands for: a URL, a file, a data URI, or the bytes themselves in base64.

A string that begins with a scheme and a colon is what the scheme says; base64 has no colon. One that begins with a
slash is an absolute path, but for a JPEG in base64, which always begins with `/9j/`: that is base64 if all its letters
are, as those of no file's name with a suffix are. (A file like `/9j/photo` is reached as `file:///9j/photo`.) What is
longer than any path is base64. All else is base64, unless it has other letters: then it is nothing that is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote

from embedway.errors import EmptyInput, InvalidValue

LONGEST_PATH = 4096
"""Linux's, with the NUL; as for URLs, what is longer is not looked through on the event loop"""
LONGEST_DATA_HEADER = 1024
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)
JPEG_IN_BASE64 = "/9j/"
NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/=_\s-]")


@dataclass(frozen=True, slots=True)
class Remote:
    url: str


@dataclass(frozen=True, slots=True)
class LocalFile:
    path: str
    """Absolute, without NUL; links and `..` are not resolved yet"""


@dataclass(frozen=True, slots=True)
class Base64:
    text: str
    """Standard or URL-safe, with or without padding, perhaps with white space"""
    is_percent_encoded: bool = False


@dataclass(frozen=True, slots=True)
class PercentEncoded:
    text: str


InlineData: TypeAlias = Base64 | PercentEncoded
SourceForm: TypeAlias = Remote | LocalFile | InlineData


def read_form(given: str, *, param: str) -> SourceForm:
    """Looks at the beginning only of what is long. Raises EmptyInput or InvalidValue."""
    given = given.strip()
    if not given:
        raise EmptyInput(param=param, what="an empty string")
    if scheme := SCHEME.match(given[:LONGEST_PATH]):
        return _read_scheme(scheme[1].lower(), given, param)
    is_short = len(given) < LONGEST_PATH
    has_other_letters = is_short and NOT_BASE64.search(given) is not None
    if is_short and given.startswith("/") and (has_other_letters or not given.startswith(JPEG_IN_BASE64)):
        return _local_file(given, param)
    if has_other_letters:
        raise InvalidValue(
            param=param,
            problem="is not an http or https URL, a file:// URL, an absolute path, a data URI or base64",
        )
    return Base64(given)


def _read_scheme(scheme: str, given: str, param: str) -> SourceForm:
    match scheme:
        case "http" | "https":
            return Remote(given)
        case "file":
            return _read_file_url(given, param)
        case "data":
            return _read_data_uri(given, param)
        case _:
            problem = f"has the scheme {scheme[:40]!r}, but only http, https, file and data are read"
            raise InvalidValue(param=param, problem=problem)


def _read_file_url(url: str, param: str) -> LocalFile:
    """`?` and `#` belong to the path: files have no queries, and who writes `file://` and a path rarely quotes it."""
    if len(url) > 3 * LONGEST_PATH:
        raise InvalidValue(param=param, problem="is longer than any path")
    path = unquote(url[len("file:") :], errors="surrogateescape")
    for prefix in ("//localhost/", "///"):
        if path.lower().startswith(prefix):
            return _local_file(path[len(prefix) - 1 :], param)
    if path.startswith("/") and not path.startswith("//"):
        return _local_file(path, param)
    raise InvalidValue(param=param, problem="is a file URL without an absolute path on this machine (file:///...)")


def _local_file(path: str, param: str) -> LocalFile:
    try:
        has_nul = b"\0" in path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidValue(param=param, problem="is a path that is not valid Unicode") from error
    if has_nul:
        raise InvalidValue(param=param, problem="is a path with a NUL")
    return LocalFile(path)


def _read_data_uri(uri: str, param: str) -> InlineData:
    comma = uri.find(",", 0, LONGEST_DATA_HEADER)
    if comma == -1:
        raise InvalidValue(param=param, problem="is a data URI without a comma before its data")
    *_, last = uri[len("data:") : comma].split(";")
    data = uri[comma + 1 :]
    return Base64(data, is_percent_encoded=True) if last.strip().lower() == "base64" else PercentEncoded(data)
