"""``python -m llm_cls.report`` as people call it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.reporting.run_directories import make_published, make_run


def _report(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm_cls.report", *arguments], capture_output=True, text=True, timeout=120, env=env
    )


def test_a_sweep_in_every_state_becomes_a_report(tmp_path: Path) -> None:
    for i, lr in enumerate((1e-4, 3e-4, 5e-4)):
        make_run(tmp_path / f"lr={lr}", lr=lr, quality=0.9 + i / 50)
    make_run(tmp_path / "lr=0.01", lr=1e-2, status="diverged")
    make_run(tmp_path / "lr=0.03", lr=3e-2, status="pruned")
    make_run(tmp_path / "lr=0.05", lr=5e-2, status="running")
    (make_run(tmp_path / "lr=0.001", lr=1e-3) / "metrics.json").write_text("{")
    done = _report(f"dir={tmp_path}")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("7 runs: 3 finished")
    assert lines[1].startswith("Winner on val: lr 5e-4, test F1 ") and "(95 %: " in lines[1]
    assert lines[-1] == f"Report: {tmp_path / 'report' / 'report.html'}"
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "all.csv", "all.md", "best.csv", "best.md", "lr.csv", "lr.md",
    }  # fmt: skip
    frame = pd.read_csv(tmp_path / "report" / "all.csv")
    states = frame.set_index("run")["state"].to_dict()
    assert sorted(states.values()) == [
        "damaged",
        "diverged",
        "finished",
        "finished",
        "finished",
        "pruned",
        "unfinished",
    ]
    assert (frame["test_f1"].notna() == (frame["state"] == "finished")).all()
    assert (frame["lr"] > 0).all()


def test_a_report_removes_the_tables_of_an_earlier_one(tmp_path: Path) -> None:
    make_run(tmp_path / "a", lr=1e-4)
    make_run(tmp_path / "b", lr=3e-4)
    assert _report(f"dir={tmp_path}").returncode == 0 and (tmp_path / "report" / "lr.csv").is_file()
    (tmp_path / "report" / "own.csv").touch()
    shutil.rmtree(tmp_path / "b")
    assert _report(f"dir={tmp_path}").returncode == 0
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "all.csv", "all.md", "best.csv", "best.md", "own.csv",
    }  # fmt: skip


def test_a_second_report_reads_the_same_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    assert _report(f"dir={tmp_path}").stdout == _report(f"dir={tmp_path}").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["dir=DIR", "nope=1"], 2, "nope is not a key. Known: dir, data, baseline."),
        (["dri=DIR"], 2, "dri is not a key. Did you mean 'dir'?"),
        (["baseline=true"], 2, "dir is missing. Try dir=..."),
        (["DIR"], 2, "is not of the form key=value"),
        (["dir="], 2, "dir must not be empty"),
        (["dir=DIR/absent"], 2, "which is not there"),
        (["dir=DIR"], 3, "has no runs below it"),
        (["dir=DIR", "baseline=perhaps"], 2, "baseline must be true or false, got 'perhaps'"),
    ],
)
def test_errors_are_lines_with_exit_codes(tmp_path: Path, arguments: list[str], code: int, line: str) -> None:
    done = _report(*(argument.replace("DIR", str(tmp_path)) for argument in arguments))
    assert done.returncode == code and line in done.stderr and done.stdout == ""
    assert all(text.startswith("Error: ") for text in done.stderr.splitlines())
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


def test_no_torch_is_imported_and_no_connection_opened(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    program = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        f"sys.argv = ['report', 'dir={tmp_path}']\n"
        "from llm_cls.report import main\n"
        "main()\n"
        "heavy = {'torch', 'lightning', 'transformers', 'peft', 'wandb', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_thousand_runs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "0000", n_test=736, seed=0, lr=1e-4)
    linked = [first / "predictions"]
    for i in range(1, 1000):
        val_f1 = 0.9 + (i * 104_729 % 1000) / 12_000
        axes = {"lr": 10.0 ** (-5 + (i // 10) % 20 / 5), "template": i // 200 % 3, "lora_r": 4 * (1 + i // 600)}
        test = dict.fromkeys(("accuracy", "precision", "recall", "f1"), 0.9 + (i * 7919 % 1000) / 12_000)
        new = i < 30
        run = make_run(
            tmp_path / f"{i:04}", n_test=736, seed=i % 10, quality=test["f1"], val_f1=val_f1,
            test=test, predictions=None if new else linked[i % len(linked)], **axes,
        )  # fmt: skip
        if new:
            linked.append(run / "predictions")
    done = _report(f"dir={tmp_path}")
    assert done.returncode == 0 and done.stdout.startswith("1000 runs: 1000 finished")
    assert len(pd.read_csv(tmp_path / "report" / "all.csv")) == 1000


def test_the_published_rows_give_the_published_winners(tmp_path: Path) -> None:
    make_published(tmp_path, n_test=90)
    assert _report(f"dir={tmp_path}").returncode == 0
    best = pd.read_csv(tmp_path / "report" / "best.csv")
    assert best["test_f1"].tolist() == [97.75, 97.30, 97.27, 97.18, 96.55, 96.42, 93.98]
