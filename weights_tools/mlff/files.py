# SPDX-License-Identifier: MIT
"""What is told of a file, so that it can be recognised."""

from __future__ import annotations

import hashlib
import os


def file_hash(path: str | os.PathLike) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256; OSError where it cannot be read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()[:16]
