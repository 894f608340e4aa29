"""The keys that a server accepts: settings and key file → digests, which are all that API processes ever hold."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from embedway.errors import InvalidSetting

if TYPE_CHECKING:
    from embedway.config import Settings

NO_KEY = 0
"""The number of requests that need no key, and of those with the admin's."""


class ApiKeys(msgspec.Struct, frozen=True):
    """SHA-256 digests of keys. A key's number is its place among those of users, from 1 on."""

    users: list[bytes] = []
    """Those that open the user's routes, in the order in which they were given; empty: these routes are open"""
    admin: bytes | None = None
    """None: the admin's routes are closed"""

    @classmethod
    def of(cls, settings: Settings) -> ApiKeys:
        """Raises InvalidSetting where the key file cannot be used, or the admin's key is a user's, too."""
        given = [key.get_secret_value().strip() for key in settings.api_key]
        if settings.api_key_file is not None:
            given += read_key_file(settings.api_key_file)
        users = list(dict.fromkeys(digest(key.encode()) for key in given))
        if settings.admin_api_key is None:
            return cls(users)
        admin = digest(settings.admin_api_key.get_secret_value().strip().encode())
        if admin in users:
            raise InvalidSetting(setting="--admin-api-key", problem="is also an API key, whose users would be admins")
        return cls(users, admin)

    def number_of(self, key: bytes) -> int | None:
        """A user's key → its number, the admin's → NO_KEY, any other → None.

        All are compared, in constant time, whichever it is.
        """
        given = digest(key)
        accepted = [*self.users] if self.admin is None else [*self.users, self.admin]
        matches = [hmac.compare_digest(given, known) for known in accepted]
        if True not in matches:
            return None
        place = matches.index(True)
        return place + 1 if place < len(self.users) else NO_KEY

    def is_admin(self, key: bytes) -> bool:
        return self.admin is not None and hmac.compare_digest(digest(key), self.admin)


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_key_file(path: Path) -> list[str]:
    """One key a line; empty lines and those that begin with # say nothing. Raises InvalidSetting, without any key."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidSetting(setting="--api-key-file", problem=f"{path} cannot be read: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InvalidSetting(setting="--api-key-file", problem=f"{path} has no key, one a line")
    return keys
