"""Archives for tests, member by member, so that any part can be wrong."""

import tarfile

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
ARTICLES = {f"text/{label}/{label}-{i}.txt": f"u\nd\nt{i}\n{label}\n".encode() for label in "ab" for i in range(6)}


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """Header and content of one member; the size may be wrong."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = "/etc/passwd"
    return info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape") + content + bytes(-len(content) % BLOCK)


def tar(members: dict[str, bytes]) -> bytes:
    return b"".join(member(name, content) for name, content in members.items())


GOOD = tar(ARTICLES)
