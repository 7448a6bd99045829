"""Files are whole or absent, and what can't be written says which file it was."""

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from llm_cls.files import atomic_path, check_output, write_json


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"x": float("nan")})
    assert path.read_text(encoding="utf-8") == '{\n  "x": null\n}\n'
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyError("x")
    assert path.read_text(encoding="utf-8").endswith("}\n")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "b").touch()
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),  # of a write, which knows no name
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_an_error_of_the_disk_names_the_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(path):
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_disk_that_another_hides_names_the_file_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught, atomic_path(tmp_path / "last.ckpt"):
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected pos 768 vs 662")  # noqa: B904 - as torch.save does
    assert caught.value.filename == str(tmp_path / "last.ckpt")


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError, match="no numbers"), atomic_path(tmp_path / "a"):
        raise SafetensorError("no numbers")


def test_checking_an_output_leaves_only_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty" / "new" / "newer" / "out.csv")
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        check_output(tmp_path / "file" / "out.csv")
