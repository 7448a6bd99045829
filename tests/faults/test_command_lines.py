"""Whatever is typed: no traceback, a documented exit code, a few lines on stderr, and nothing left behind.

LLM_CLS_FAULTS is the number of random command lines, or "all" for many and always different ones.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from llm_cls import benchmark, dashboard, evaluate, export, predict, report, status, train
from llm_cls.cli import run_command
from llm_cls.config.commands import BenchmarkArguments, DashboardArguments, ReportArguments, StatusArguments
from llm_cls.config.exporting import ExportArguments
from llm_cls.config.fields import fields
from llm_cls.config.groups import GROUPS, choices
from llm_cls.config.schema import keys
from llm_cls.config.scoring import EvaluateArguments, PredictArguments

AMOUNT = os.environ.get("LLM_CLS_FAULTS", "15")
EXAMPLES = 500 if AMOUNT == "all" else int(AMOUNT)
COMMANDS: dict[str, ModuleType] = {
    "train": train, "benchmark": benchmark, "predict": predict, "report": report, "status": status,
    "dashboard": dashboard, "evaluate": evaluate, "export": export,
}  # fmt: skip
CODES = {0, 2, 3, 4, 5, 6, 75}

OWN = {"benchmark": BenchmarkArguments, "predict": PredictArguments, "report": ReportArguments,
       "status": StatusArguments, "dashboard": DashboardArguments, "evaluate": EvaluateArguments,
       "export": ExportArguments}  # fmt: skip
HYDRA = ["hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir",
         "hydra.job.name", "hydra.mode", "hydra.verbose", "hydra.searchpath", "hydra.callbacks", "hydra/launcher",
         "hydra/sweeper", "hydra/job_logging", "hydra"]  # fmt: skip
ODD_KEYS = ["", "種", "se ed", "a.b.c", ".", "lora.", "a@b", "model@x", "x" * 300, "0", "\n", "\x1b[2J",
            "model.architecture.x"]  # fmt: skip
PLACES = ["empty", "empty/new/newer", "file", "file/x", "run", "sweep", ".", "no", "texts.csv", "bad.csv", "new.csv",
          "no/new.jsonl", "file/x.csv"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        "", "x", "-1", "0", "1", "1e9999", "nan", "9" * 30, "9" * 5000, "null", "true", "???", "[", "]", "{", "{a:1}",
        "[1,2]", "'", '"', "'x", "\\", "${x}", "${seed}", "${oc.env:NO}", "${", "1,2", "a,b", ",", "本,文", "日本", "é",
        "\n", "a\nb", "\x1b[31m", "\udcff", "\ud800", "a\0b", "../up", "x" * 300, "~", "=", "a=b", "*", "range(1,3)",
        "range(0,inf)", "range(0,1,0)", "choice(1,2)", "choice()", "interval(0,1)", "glob(*)", "sort(3,1)", "int(x)",
        "shuffle(1,2)", "tag(a,1)",
    ]),
    st.sampled_from(PLACES),
    st.sampled_from([choice for group in GROUPS for choice in choices(group)]),
    st.text(max_size=8),
)  # fmt: skip
FLAGS = st.sampled_from([
    "-m", "--multirun", "--cfg", "--cfg=job", "--cfg=all", "-c", "job", "--info", "--info=defaults", "-i", "--resolve",
    "-p", "--package=data", "--package=no", "--hydra-help", "--version", "--config-name=x", "--config-dir=no",
    "--config-dir=file", "--config-path=/no", "--experimental-rerun=no", "-sc", "--shell-completion", "--zzz", "-",
    "--", "-x", "--run", "-h", "--help",
])  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A command with up to four arguments, most of them a known key with an odd value."""
    name = draw(st.sampled_from(["train", "train", "train", *COMMANDS]))
    known = list(fields(OWN[name])) if name in OWN else []
    if name in ("train", "benchmark"):
        known += [*keys(), *GROUPS, *HYDRA]
    arguments = ["-m"] if name == "train" and draw(st.integers(0, 4)) == 0 else []
    if name in OWN and draw(st.booleans()):  # all keys that the command needs, so that it begins
        required = [key for key, field in fields(OWN[name]).items() if field.is_required()]
        arguments += [f"{key}={draw(st.sampled_from(PLACES))}" for key in required]
    for kind in draw(st.lists(st.sampled_from(["known"] * 7 + ["odd", "bare", "flag", "text"]), max_size=4)):
        prefix = draw(st.sampled_from(["", "", "", "", "+", "++", "~"] if name in ("train", "benchmark") else [""]))
        if kind in ("known", "odd"):
            key = draw(st.sampled_from(known if kind == "known" else ODD_KEYS))
            arguments.append(f"{prefix}{key}={draw(VALUES)}")
        elif kind == "bare":
            arguments.append(prefix + draw(st.sampled_from(known)))
        else:
            arguments.append(draw(FLAGS if kind == "flag" else st.text(max_size=12)))
    return name, arguments


# Each ends a command that would otherwise train: at once, or where the corpus is compared with the configuration.
ENDS = [["seed=x"], ["data=sample", "model=ja-mini", "data.batch_size=999999", "data.micro_batch_size=null"]]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A folder with something of everything, no network and no caches of the user's."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LLM_CLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets it
    work = tmp_path / "work"
    for folder in ("empty", "run", "sweep/run"):
        (work / folder).mkdir(parents=True)
    (work / "file").touch()
    (work / "texts.csv").write_text("id,title,body,text,label\n1,題,本文,文,x\n", encoding="utf-8")
    (work / "bad.csv").write_text("text,label\na,b,c\n", encoding="utf-8")
    (work / "run" / "metrics.json").write_text('{"schema": ' + "9" * 5000 + "}")
    entry = {"directory": "run", "overrides": [], "swept": []}
    (work / "sweep" / "sweep.jsonl").write_text(json.dumps(entry) + "\n")
    monkeypatch.chdir(work)
    yield


def call(name: str, arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in this process."""
    plain, argv, handlers = OverridesParser.parse_overrides, sys.argv, list(logging.getLogger().handlers)
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: object = run_command(COMMANDS[name].main)
    except SystemExit as end:
        code = end.code or 0
    finally:
        OverridesParser.parse_overrides, sys.argv = plain, argv  # type: ignore[method-assign]
        logging.getLogger().handlers[:] = handlers  # one of them would write to the removed folder of this run
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def files() -> list[Path]:
    return sorted(Path().rglob("*"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=AMOUNT != "all",
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(line=command_lines(), end=st.sampled_from(ENDS))
@example(line=("train", ["model.name=", "~template=-1"]), end=ENDS[0])
@example(line=("train", ["+="]), end=ENDS[0])
@example(line=("train", ["hydra.verbose={a:1}"]), end=ENDS[0])
@example(line=("benchmark", [f"seed={'9' * 5000}"]), end=ENDS[0])
def test_random_command_lines(line: tuple[str, list[str]], end: list[str]) -> None:
    name, arguments = line
    if name in ("train", "benchmark"):
        arguments = [*arguments, *end]
    before = files()
    code, out, err = call(name, arguments)
    note(f"{name} {arguments}: {code}\n{out[-2000:]}\n{err}")
    assert "Traceback" not in err and code in CODES
    assert err.count("\n") <= 2 + 4 * len(arguments) and len(err) < 6000, "short"
    assert all(part.isprintable() for part in err.splitlines())
    assert all(part not in ("Error: ", "Error:") for part in err.splitlines()), "no text of the user's splits a line"
    if code in (2, 3):
        assert files() == before, "a refused command leaves nothing, and removes nothing"
