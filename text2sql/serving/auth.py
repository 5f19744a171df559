"""API keys: made, kept as salted hashes in a file, compared in constant time, and asked for by each route itself.

A key is `t2s_ID_SECRET`. The ID, which is no secret, finds the line of the file; the secret has 256 random bits, so
that a fast hash (SHA-256 with a salt) keeps it, and no request costs the time of a slow one. A line of the file is

    ID NAME SALT HASH [RATE]

Several lines may have one name, so that a key can be replaced: add the new one, hand it out, remove the old line.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from text2sql.errors import ConfigError, OutputError
from text2sql.serving.limits import parse_rate

logger = logging.getLogger(__name__)

_KEY = re.compile(r"t2s_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_LINE = re.compile(r"([0-9a-f]{12}) (\S{1,64}) ([0-9a-f]{32}) ([0-9a-f]{64})(?: (\S+))?", re.ASCII)
_NAME = re.compile(r"[\w.@-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Key:
    """What the server knows of a key."""

    id: str
    name: str
    salt: str
    hash: str
    rate: str | None = None

    @property
    def cache_salt(self) -> str:
        """For Options.cache_salt: the same for a key wherever its line is known, and nothing that another can guess."""
        return hmac.new(bytes.fromhex(self.hash), b"cache_salt", hashlib.sha256).hexdigest()

    def line(self) -> str:
        return " ".join(filter(None, (self.id, self.name, self.salt, self.hash, self.rate)))


_NOBODY = Key("0" * 12, "nobody", "0" * 32, "0" * 64)
"""Compared with when an ID is unknown, which takes as long as a wrong secret."""


def make_key(name: str, rate: str | None = None) -> tuple[str, Key]:
    """A new key and its line.

    Raises:
        ConfigError: the name or the rate cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError([f"a key's name is 1 to 64 letters, digits, or . _ @ -, and not {name[:80]!r}"])
    if rate is not None:
        rate = rate.replace(" ", "")
        try:
            parse_rate(rate)
        except ValueError as error:
            raise ConfigError([str(error)]) from None
    number, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
    return f"t2s_{number}_{secret}", Key(number, name, salt, _hash(salt, secret), rate)


def add_key(path: Path, key: Key) -> None:
    """Append its line; a new file is its owner's alone.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", encoding="utf-8") as file:
            file.write(key.line() + "\n")
    except OSError as error:
        raise OutputError(f"key file {str(path)!r} cannot be written: {error.strerror or error}") from None


def revoke_key(path: Path, number: str) -> Key:
    """Take a key's line out of the file, in one stroke.

    Raises:
        ConfigError: there is no such key, or no such file.
        OutputError: it cannot be written.
    """
    lines = _read(path)
    found = [key for line in lines if (key := _parsed(line)) and key.id == number]
    if not found:
        raise ConfigError([f"key file {str(path)!r} has no key {number[:20]!r}; `--list` shows those it has"])
    kept = "".join(f"{line}\n" for line in lines if not line.startswith(f"{number} "))
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(kept)
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"key file {str(path)!r} cannot be written: {error.strerror or error}") from None
    return found[0]


def read_keys(path: Path) -> dict[str, Key]:
    """Keys by ID; blank lines and those that start with # are let be.

    Raises:
        ConfigError: the file cannot be read, or a line is none.
    """
    keys: dict[str, Key] = {}
    problems = []
    for number, line in enumerate(_read(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if (key := _parsed(line)) is None:
            problems.append(
                f"line {number} of key file {str(path)!r} is no key; make one with `python -m text2sql key`"
            )
        else:
            keys[key.id] = key
    if problems:
        raise ConfigError(problems)
    return keys


class Keys:
    """The keys of a file as it is now. A file that is missing or spoilt leaves the last good ones in force."""

    def __init__(self, path: Path) -> None:
        """Raises:
        ConfigError: the file cannot be used.
        """
        self._path = path
        self._seen = self._stamp()
        self._keys = read_keys(path)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, text: str) -> Key | None:
        """The key that a client sent, if it is one."""
        self._refresh()
        match = _KEY.fullmatch(text)
        number, secret = match.groups() if match else ("", "")
        key = self._keys.get(number, _NOBODY)
        same = hmac.compare_digest(_hash(key.salt, secret), key.hash)
        return key if same and key is not _NOBODY else None

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._keys = read_keys(self._path)
        except ConfigError as error:
            logger.error("the keys were not read again, and the former ones stay in force: %s", error)
        else:
            logger.info("%d keys read", len(self._keys))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            [f"key file {str(path)!r} cannot be read ({error}); make one with `python -m text2sql key NAME`"]
        ) from None


def _parsed(line: str) -> Key | None:
    match = _LINE.fullmatch(line.rstrip())
    if match is None:
        return None
    try:
        if match[5]:
            parse_rate(match[5])
    except ValueError:
        return None
    return Key(*match.groups())


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()
