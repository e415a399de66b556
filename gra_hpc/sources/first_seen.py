"""Which texts were met before, and where: array work, fifty bytes a text, where Python's dict takes three hundred."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Sequence

import numpy as np

FREE = -1


class FirstSeen:
    """Numbers texts in their order, and knows of each which equal one came first.

    A table of open addresses: what stands at a place, or the next one that is free, is a text's number. The digests
    spread evenly, and the table is at most half full.
    """

    def __init__(self) -> None:
        self._size = 0
        self._digests = np.empty((1024, 2), np.uint64)
        """By number, in two halves."""
        self._places = np.full(4096, FREE, np.int32)

    def __len__(self) -> int:
        return self._size

    def add(self, digests: Sequence[bytes]) -> list[int]:
        """Number further texts.

        Args:
            digests: 16 bytes that name each.

        Returns:
            For each the number of the first text of this name; its own where it is the first.
        """
        begin, end = self._size, self._size + len(digests)
        while end > len(self._digests):
            self._digests = np.concatenate([self._digests, np.empty_like(self._digests)])
        self._digests[begin:end] = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        self._size = end
        if 2 * end > len(self._places):
            numbers = np.sort(self._places[self._places != FREE])
            while 2 * end > len(self._places):
                self._places = np.full(2 * len(self._places), FREE, np.int32)
            self._place(numbers)
        return self._place(np.arange(begin, end, dtype=np.int32)).tolist()

    def _place(self, numbers: np.ndarray) -> np.ndarray:
        """Put numbers in their places, but for those of texts that stand there already.

        Args:
            numbers: int32 [n], ascending.

        Returns:
            int32 [n]: what stands for each now.
        """
        last = len(self._places) - 1
        at = (self._digests[numbers, 0] & np.uint64(last)).astype(np.int64)
        found = np.empty(len(numbers), np.int32)
        left = np.arange(len(numbers))
        while len(left):
            here = at[left]
            free = self._places[here] == FREE
            self._places[here[free][::-1]] = numbers[left[free]][::-1]  # of several for one place, the first
            there = self._places[here]
            same = (self._digests[there] == self._digests[numbers[left]]).all(axis=1)
            found[left[same]] = there[same]
            left = left[~same]
            at[left] = (at[left] + 1) & last
        return found


class Places:
    """Where each text stands, by its number: eight bytes each, as files come one after the other."""

    def __init__(self) -> None:
        self._lines = array("q")
        self._files: list[str] = []
        self._begins: list[int] = []

    def add(self, file: str, line: int) -> None:
        if not self._files or self._files[-1] != file:
            self._files.append(file)
            self._begins.append(len(self._lines))
        self._lines.append(line)

    def extend(self, file: str, lines: Sequence[int]) -> None:
        """Several texts of one file."""
        if lines:
            self.add(file, lines[0])
            self._lines.extend(lines[1:])

    def __getitem__(self, number: int) -> str:
        """`file:line`."""
        return f"{self._files[bisect(self._begins, number) - 1]}:{self._lines[number]}"
