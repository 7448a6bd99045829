"""What a power cut may leave of a folder.

A file system keeps what was fsynced. Of other data and of changed names it keeps what it likes: the data of a file need
an fsync of the file, its name needs one of its folder. ``Disk`` knows which is which and makes the worst states that
are allowed.
"""

import os
from collections.abc import Mapping
from pathlib import Path

Tree = dict[str, bytes | None]  # content by path; None for a folder

CUTS = ("empty", "half", "names", "leaves", "branches")
"""Which part a power cut takes.

empty: all data that were not fsynced, while all names are kept: files are empty.
half: the second half of them.
names: moreover all changes of folders that were not fsynced.
leaves: the same in folders without folders only, so that the run directory is newer than model/ or predictions/.
branches: the same in folders with folders only, so that checkpoints/ is newer than the run directory.
"""


class Disk:
    """The folder ``root`` in memory, with what is certain to survive: at first, all of it.

    Files are known by their inode. Each is held open, so that the system gives no other file its number.
    """

    def __init__(self, root: Path) -> None:
        """Reads the folder."""
        self._root = root
        self._number = root.stat().st_ino
        self._held: dict[int, int] = {}
        self._folders: set[int] = set()
        self._data: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._safe_data: dict[int, bytes] = {}
        self._safe_entries: dict[int, dict[str, int]] = {}
        self.scan()
        self._safe_data, self._safe_entries = dict(self._data), dict(self._entries)

    def scan(self) -> None:
        """Reads what is there now."""
        data, self._data, self._entries = self._data, {}, {}
        for path, folders, files in os.walk(self._root):
            number = Path(path).stat().st_ino
            self._folders.add(number)
            entries = self._entries[number] = {}
            for name in folders + files:
                file = Path(path, name)
                number = entries[name] = file.lstat().st_ino
                if number not in self._held:
                    self._held[number] = os.open(file, os.O_PATH | os.O_NOFOLLOW)
                if name in files:
                    content = file.read_bytes()
                    known = data.get(number)
                    self._data[number] = known if known is not None and known == content else content

    def synced(self, descriptor: int) -> None:
        """Keeps the present content of a file, or the present names in a folder."""
        self.scan()
        number = os.fstat(descriptor).st_ino
        if number in self._data:
            self._safe_data[number] = self._data[number]
        elif number in self._entries:
            self._safe_entries[number] = dict(self._entries[number])

    def now(self) -> Tree:
        """What a killed process leaves: all of it."""
        return self._tree(self._entries, 1.0)

    def after(self, cut: str) -> Tree:
        """What a power cut leaves; see ``CUTS``."""
        older: dict[int, dict[str, int]] = {}
        for number in self._entries:
            leaf = not any(child in self._entries for child in self._entries[number].values())
            if cut == "names" or cut == ("leaves" if leaf and number != self._number else "branches"):
                older[number] = self._safe_entries.get(number, {})
        return self._tree(self._safe_entries | self._entries | older, 0.5 if cut == "half" else 0.0)

    def _tree(self, entries: Mapping[int, Mapping[str, int]], kept: float) -> Tree:
        """The files below the root.

        Args:
            entries: The names in each folder.
            kept: The part of data that is left where it was not fsynced; 1 for a living system.
        """
        tree: Tree = {}
        todo = [("", self._number)]
        while todo:
            path, number = todo.pop()
            for name, child in entries.get(number, {}).items():
                below = f"{path}{name}"
                if child in self._folders:
                    tree[below] = None
                    todo.append((f"{below}/", child))
                else:
                    tree[below] = self._left_of(child, kept)
        return tree

    def _left_of(self, number: int, kept: float) -> bytes:
        data, safe = self._data.get(number), self._safe_data.get(number)
        if data is None:  # removed, but the removal is undone
            return safe or b""
        if kept == 1 or data == safe:
            return data
        if safe and data.startswith(safe):  # appended to
            return safe
        return data[: int(len(data) * kept)]


def write_tree(tree: Mapping[str, bytes | None], folder: Path) -> None:
    """Makes the files of ``tree`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(tree):
        content = tree[name]
        if content is None:
            (folder / name).mkdir(parents=True, exist_ok=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
