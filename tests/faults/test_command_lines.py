"""Whatever is typed: no traceback, a documented exit code, a few lines on stderr, and nothing left behind.

LLM_CLS_FAULTS is the number of random command lines, or "all" for many and always different ones.
"""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from llm_cls import benchmark, dashboard, predict, report, status, train
from llm_cls.cli import run_command
from llm_cls.config.commands import BenchmarkArguments, PredictArguments, ReportArguments
from llm_cls.config.groups import GROUPS, choices
from llm_cls.config.schema import keys

AMOUNT = os.environ.get("LLM_CLS_FAULTS", "60")
EXAMPLES = 500 if AMOUNT == "all" else int(AMOUNT)
COMMANDS: dict[str, ModuleType] = {
    "train": train, "benchmark": benchmark, "predict": predict, "report": report, "status": status,
    "dashboard": dashboard,
}  # fmt: skip
CODES = {0, 2, 3, 4, 5, 6, 75}

OWN = [
    "dir",
    *(key for schema in (PredictArguments, ReportArguments, BenchmarkArguments) for key in schema.model_fields),
]
HYDRA = ["hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.output_subdir", "hydra.job.chdir",
         "hydra.job.name", "hydra.mode", "hydra.verbose", "hydra.searchpath", "hydra.callbacks", "hydra/launcher",
         "hydra/sweeper", "hydra/job_logging", "hydra"]  # fmt: skip
KEYS = st.one_of(
    st.sampled_from([*keys(), *GROUPS]),
    st.sampled_from([*HYDRA, *OWN]),
    st.sampled_from(["", "種", "se ed", "a.b.c", ".", "lora.", "a@b", "model@x", "x" * 300, "0", "\n", "\x1b[2J",
                     "model.architecture.x"]),
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([
        "", "x", "-1", "0", "1", "1e9999", "nan", "9" * 30, "9" * 5000, "null", "true", "???", "[", "]", "{", "{a:1}",
        "[1,2]", "'", '"', "'x", "\\", "${x}", "${seed}", "${oc.env:NO}", "${", "1,2", "a,b", ",", "本,文", "日本", "é",
        "\n", "a\nb", "\x1b[31m", "\udcff", "\ud800", "a\0b", "../up", "x" * 300, "~", "=", "a=b", "*", "range(1,3)",
        "choice(1,2)", "choice()", "interval(0,1)", "glob(*)", "sort(3,1)", "int(x)", "shuffle(1,2)", "tag(a,1)",
        "empty", "empty/new/newer", "file", "file/x", "run", "sweep", "texts.csv", "bad.csv", "new.csv", "no/new.jsonl",
    ]),
    st.sampled_from([choice for group in GROUPS for choice in choices(group)]),
    st.text(max_size=8),
)  # fmt: skip
FLAGS = st.sampled_from([
    "-m", "--multirun", "--cfg", "--cfg=job", "--cfg=all", "-c", "job", "--info", "--info=defaults", "-i", "--resolve",
    "-p", "--package=data", "--package=no", "--hydra-help", "--version", "--config-name=x", "--config-dir=no",
    "--config-dir=file", "--config-path=/no", "--experimental-rerun=no", "-sc", "--shell-completion", "--zzz", "-",
    "--", "-x", "--run", "-h", "--help",
])  # fmt: skip
ARGUMENT = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(["", "", "", "+", "++", "~"]), KEYS, VALUES),
    st.builds("{}{}".format, st.sampled_from(["", "~", "+"]), KEYS),
    FLAGS,
    st.text(max_size=12),
)
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
    plain, argv = OverridesParser.parse_overrides, sys.argv
    out, err = io.StringIO(), io.StringIO()
    sys.argv = [name, *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code: object = run_command(COMMANDS[name].main)
    except SystemExit as end:
        code = end.code or 0
    finally:
        OverridesParser.parse_overrides, sys.argv = plain, argv  # type: ignore[method-assign]
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
@given(
    name=st.sampled_from(["train", "train", *COMMANDS]),
    arguments=st.lists(ARGUMENT, max_size=4),
    end=st.sampled_from(ENDS),
)
def test_random_command_lines(name: str, arguments: list[str], end: list[str]) -> None:
    if name in ("train", "benchmark"):
        arguments = [*arguments, *end]
    before = files()
    code, out, err = call(name, arguments)
    note(f"{name} {arguments}: {code}\n{out[-2000:]}\n{err}")
    assert "Traceback" not in err and code in CODES
    assert err.count("\n") <= 2 + 4 * len(arguments) and len(err) < 6000, "short"
    assert all(line.isprintable() for line in err.splitlines())
    if code in (2, 3):
        assert files() == before, "a refused command leaves nothing, and removes nothing"
