"""When a finished step may be used again: same inputs, same settings, same code, the library's included.

ZenML's own cache key covers the source of the step's function and not what it imports, so an edit in text2sql/ would
replay old results. The whole library counts for every step: coarse, but never wrong.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from zenml.config.cache_policy import CachePolicy

HOUSE = Path(__file__).parents[1]
ROOMS = ("text2sql", "steps", "materializers")


def source_checksum(house: Path = HOUSE) -> str:
    """SHA-256 over the names and bytes of every source and data file of the library, the steps and materializers."""
    digest = hashlib.sha256()
    for room in ROOMS:
        for path in sorted((house / room).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                digest.update(f"{content}  {path.relative_to(house).as_posix()}\n".encode())
    return digest.hexdigest()


BY_CODE = CachePolicy(cache_func=source_checksum)
