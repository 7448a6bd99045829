"""What the terminal viewer is shown."""

import subprocess
import sys
from pathlib import Path

from llm_cls.dashboard import gather


def test_all_runs_in_one_folder(tmp_path: Path) -> None:
    runs = ["runs/a/wandb/offline-run-1-x", "sweeps/s/lr=1/wandb/offline-run-2-y", "sweeps/s/lr=2/wandb/run-3-z"]
    for run in runs:
        (tmp_path / "outputs" / run).mkdir(parents=True)
    (tmp_path / "outputs" / "runs" / "a" / "wandb" / "latest-run").symlink_to("offline-run-1-x")
    assert gather(tmp_path / "outputs", tmp_path / "wandb") == 3
    links = sorted((tmp_path / "wandb").iterdir())
    assert [link.name for link in links] == ["offline-run-1-x", "offline-run-2-y", "run-3-z"]
    assert links[1].resolve() == (tmp_path / "outputs" / runs[1]).resolve()


def test_nothing_to_show(tmp_path: Path) -> None:
    for argument, code, part in (
        ("dir=nowhere", 2, "is not a directory"),
        ("dir=.", 3, "no W&B runs"),
        ("x=1", 2, "x is not a key. Known: dir."),
    ):
        line = [sys.executable, "-m", "llm_cls.dashboard", argument]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code and part in done.stderr and done.stderr.count("\n") == 1
