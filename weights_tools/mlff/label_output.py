# SPDX-License-Identifier: MIT
"""Where mlff-label keeps what it has done, so that it can be interrupted at any moment.

OUT.part    the labelled frames so far, extended XYZ
OUT.state   one JSON object a line: first what the run is (frames, their hash, calculator), then for each frame its
            number and either `size`, the bytes of OUT.part with this frame in it, or `error`, why it has no labels
A frame is written before its line, and counts when its line is there: what lies behind the last `size` is cut off when
the run goes on. When all frames are done OUT.part becomes OUT and OUT.state goes.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .errors import MlffError, UsageError


class Output:
    """A run's two files. done: numbers of the frames that need no more work; failed: sentence by number."""

    def __init__(self, path: Path, run: dict[str, str], resume: bool):
        """run: what must be the same for a resumed run. Raises UsageError where files would be overwritten."""
        self.path, self.run = path, run
        self.part, self.state = (path.with_name(path.name + ending) for ending in (".part", ".state"))
        self.done: set[int] = set()
        self.failed: dict[int, str] = {}
        if not path.parent.is_dir():
            raise MlffError(f"{path}: the folder is missing")
        if path.exists():
            raise UsageError(f"{path}: exists already, and is not overwritten; remove it or name another file")
        if self.state.exists() and not resume:
            raise UsageError(f"{self.state}: an interrupted run has left it; --resume goes on, or remove it")
        size = self._load() if self.state.exists() else 0
        self._frames, self._lines = open(self.part, "ab"), open(self.state, "ab")
        self._frames.truncate(size)
        if not self._lines.tell():
            self._say(run)

    def _load(self) -> int:
        """Reads OUT.state, cuts off a line that is not whole; the bytes of OUT.part that count."""
        size, whole = 0, 0
        with open(self.state, "rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):  # the interruption came in the middle of it
                    break
                try:
                    record = json.loads(line)
                    if number == 0:
                        self._compare(record)
                    else:
                        self.done.add(int(record["frame"]))
                        if "error" in record:
                            self.failed[record["frame"]] = record["error"]
                        else:
                            size = int(record["size"])
                except (ValueError, KeyError, TypeError):
                    raise MlffError(f"{self.state}: line {number + 1} is not a record of mlff-label; remove the file "
                                    "to begin again") from None
                whole += len(line)
        os.truncate(self.state, whole)
        found = self.part.stat().st_size if self.part.exists() else 0
        if found < size:
            raise MlffError(f"{self.part}: {found} bytes, expected {size} or more as {self.state} has it; remove both "
                            "to begin again")
        return size

    def _compare(self, found: dict) -> None:
        for key, expected in self.run.items():
            if found.get(key) != expected:
                raise UsageError(f"{self.state}: begun with {key} '{found.get(key)}', which is now '{expected}'; "
                                 "resume with the same, or remove the file")

    def _say(self, record: dict) -> None:
        self._lines.write(json.dumps(record).encode() + b"\n")
        self._lines.flush()

    def add(self, number: int, text: str) -> None:
        """The frame of this number, as extended XYZ."""
        self._frames.write(text.encode())
        self._frames.flush()
        self._say({"frame": number, "size": self._frames.tell()})
        self.done.add(number)

    def fail(self, number: int, sentence: str) -> None:
        """The frame of this number gets no labels."""
        self._say({"frame": number, "error": sentence})
        self.done.add(number)
        self.failed[number] = sentence

    def close(self) -> None:
        self._frames.close()
        self._lines.close()

    def finish(self) -> int:
        """OUT.part becomes OUT, compressed where its name ends so; the number of labelled frames in it."""
        from ase.io.formats import get_compression, open_with_compression

        self.close()
        labelled = len(self.done) - len(self.failed)
        if labelled:
            if get_compression(str(self.path))[1]:
                packed = self.path.with_name("packed-" + self.path.name)  # keeps the ending, which tells how
                with open(self.part, "rb") as source, open_with_compression(str(packed), "wb") as target:
                    shutil.copyfileobj(source, target)
                os.replace(packed, self.path)
                self.part.unlink()
            else:
                os.replace(self.part, self.path)
        else:
            self.part.unlink()
        self.state.unlink()
        return labelled
