"""Reading run directories in any state, and grouping them."""

import fcntl
import json
from pathlib import Path

import pytest
import yaml

from llm_cls.errors import ConfigError
from llm_cls.files import write_json, write_jsonl
from llm_cls.reporting.corpora import same_data
from llm_cls.reporting.runs import read_runs
from llm_cls.reporting.settings import as_number, best, best_per, group, shown_lr_series
from llm_cls.runs.config_file import read_config
from tests.jsonl import read_jsonl
from tests.unit.reporting.run_directories import LABELS, make_run, replace_json


def _states(directory: Path) -> dict[str, str]:
    return {run.name: run.state for run in read_runs(directory)}


def test_the_generator_writes_configurations_that_training_accepts(tmp_path: Path) -> None:
    config = read_config(make_run(tmp_path / "a", lr=1e-5, template=1) / "config.yaml")
    assert config.optimizer.lr == 1e-5 and config.template.name == "1"


def test_runs_of_every_state_are_listed_and_only_finished_ones_scored(tmp_path: Path) -> None:
    make_run(tmp_path / "x" / "ok", lr=1e-4)
    make_run(tmp_path / "x" / "diverged", lr=1e-2, status="diverged")
    make_run(tmp_path / "x" / "pruned", lr=3e-4, status="pruned")
    make_run(tmp_path / "unfinished", lr=5e-4, status="running")
    (tmp_path / "only_config").mkdir()
    (tmp_path / "only_config" / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "notes").mkdir()
    runs = read_runs(tmp_path)
    assert {run.name: run.state for run in runs} == {
        "only_config": "planned", "unfinished": "interrupted",
        "x/diverged": "diverged", "x/ok": "finished", "x/pruned": "pruned",
    }  # fmt: skip
    assert [run.name for run in runs if run.scored] == ["x/ok"]
    assert all(run.reason for run in runs if not run.scored)


def test_failed_runs_are_listed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()  # before the run had a configuration
    late = make_run(tmp_path / "late", status="running")
    for run, reason in ((tmp_path / "early", "lora.r must be >= 1,\ngot 0"), (late, "CUDA out of memory")):
        (run / "failed.json").write_text(json.dumps({"reason": reason, "exit_code": 2}))
    tried_again = make_run(tmp_path / "tried_again")
    (tried_again / "failed.json").write_text('{"reason": "an earlier one", "exit_code": 4}')
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "failed.json").write_text("[]")
    found = {run.name: (run.state, run.reason) for run in read_runs(tmp_path)}
    assert found["early"] == ("failed", "lora.r must be >= 1, got 0")
    assert found["late"] == ("failed", "CUDA out of memory")
    assert found["tried_again"] == ("finished", "") and found["odd"][0] == "damaged"
    with (late / ".lock").open("w") as lock:  # being tried again
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert _states(tmp_path)["late"] == "running"


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", status="running")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert _states(tmp_path) == {"a": "running"}
        (run / "history.jsonl").write_text("{")
        assert _states(tmp_path) == {"a": "running"}, "its process may mend it still"
    assert _states(tmp_path) == {"a": "damaged"}
    (run / "history.jsonl").unlink()
    assert _states(tmp_path) == {"a": "interrupted"}


def figures(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(("accuracy", "precision", "recall", "f1"), value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_score(run: Path, difference: float) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["test"]["f1"] += difference
    write_json(run / "metrics.json", metrics)


def swap_prediction(path: Path) -> None:
    lines = read_jsonl(path)
    lines[3]["prediction"] = next(label for label in LABELS if label != lines[3]["prediction"])
    write_jsonl(path, lines)


def repeat_id(path: Path) -> None:
    lines = read_jsonl(path)
    lines[3]["id"] = lines[2]["id"]
    write_jsonl(path, lines)


def drop_line(path: Path) -> None:
    write_jsonl(path, read_jsonl(path)[1:])


DAMAGES = {
    "cut": lambda run: (run / "metrics.json").write_text('{"status": "fini'),
    "empty": lambda run: (run / "metrics.json").write_text(""),
    "not an object": lambda run: (run / "metrics.json").write_text("[1]"),
    "binary": lambda run: (run / "metrics.json").write_bytes(b"\xff\xfe\x00"),
    "deep": lambda run: (run / "metrics.json").write_text("[" * 100_000),
    "NaN": lambda run: replace_json(run / "metrics.json", val=figures(float("nan"))),
    "percent": lambda run: replace_json(run / "metrics.json", val=figures(97.5)),
    "text": lambda run: replace_json(run / "metrics.json", best_epoch="3"),
    "no f1": lambda run: replace_json(run / "metrics.json", test=figures(None) | {"n": 180}),
    "no test": lambda run: replace_json(run / "metrics.json", test=None),
    "other texts": lambda run: edit(run / "run.json", '"n_test": 180', '"n_test": 7'),
    "status": lambda run: replace_json(run / "metrics.json", status="done"),
    "history": lambda run: (run / "history.jsonl").write_text('{"epoch": 1'),
    "edited score": lambda run: change_score(run, 0.001),
    "other prediction": lambda run: swap_prediction(run / "predictions" / "test.jsonl"),
    "id twice": lambda run: repeat_id(run / "predictions" / "test.jsonl"),
    "a text less": lambda run: drop_line(run / "predictions" / "test.jsonl"),
    "no run.json": lambda run: (run / "run.json").unlink(),
    "no config": lambda run: (run / "config.yaml").unlink(),
    "bad yaml": lambda run: (run / "config.yaml").write_text("a: [1"),
    "yaml list": lambda run: (run / "config.yaml").write_text("- 1\n"),
    "code": lambda run: (run / "config.yaml").write_text("a: !!python/object/apply:os.system [true]\n"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_listed_with_the_reason(tmp_path: Path, damage: str) -> None:
    make_run(tmp_path / "good", lr=1e-4)
    DAMAGES[damage](make_run(tmp_path / "bad", lr=3e-4))
    runs = {run.name: run for run in read_runs(tmp_path)}
    assert runs["good"].scored
    assert runs["bad"].state == "damaged" and "\n" not in runs["bad"].reason and runs["bad"].reason
    assert runs["bad"].reason.startswith(
        ("metrics.json ", "run.json ", "config.yaml ", "history.jsonl, line 1, ", "predictions/")
    )


def test_a_copied_run_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b")
    assert _states(tmp_path) == {"a": "finished", "b": "duplicate"}


def test_links_are_not_followed(tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere" / "a")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "loop").symlink_to(tmp_path)
    assert _states(tmp_path / "sweep") == {}


def test_seeds_make_one_setting_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, quality in ((1, 0.90), (2, 0.94)):
        make_run(tmp_path / str(seed), seed=seed, quality=quality)
    (setting,) = group(read_runs(tmp_path))
    f1 = [run.metrics.test.f1 for run in setting.runs]
    assert setting.test("f1") == pytest.approx(sum(f1) / 2)
    assert setting.score_sd == pytest.approx(abs(f1[0] - f1[1]) / 2**0.5)
    assert setting.best_run.name == "2"


def test_another_key_that_varies_makes_another_setting_and_a_column(tmp_path: Path) -> None:
    for i, alpha in enumerate((16.0, 32.0)):
        run = make_run(tmp_path / str(i))
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("lora_alpha: 16.0", f"lora_alpha: {alpha}"))
        replace_json(run / "run.json", run_id=str(i))
    assert [setting.extras for setting in group(read_runs(tmp_path))] == [
        {"lora.lora_alpha": 16},
        {"lora.lora_alpha": 32},
    ]


def test_runs_that_differ_in_speed_alone_are_one_setting(tmp_path: Path) -> None:
    for i, devices in enumerate((1, 2)):
        run = make_run(tmp_path / str(i))
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("devices: 1", f"devices: {devices}"))
        replace_json(run / "run.json", run_id=str(i))
    assert len(group(read_runs(tmp_path))) == 1


def test_best_per_model_gives_each_model_the_same_chances(tmp_path: Path) -> None:
    make_run(tmp_path / "a1", model="a", lr=1e-4, val_f1=0.90)
    make_run(tmp_path / "a2", model="a", lr=3e-4, val_f1=0.95)
    make_run(tmp_path / "b1", model="b", lr=1e-4, val_f1=0.91)
    make_run(tmp_path / "c1", model="c", lr=9e-4, val_f1=0.92)
    settings = group(read_runs(tmp_path))
    assert {s.axes["model"]: s.axes["lr"] for s in best_per(settings, "model")} == {"a": 1e-4, "b": 1e-4, "c": 9e-4}
    assert best(settings).val_score == 0.95


def test_of_many_series_each_model_keeps_the_longest(tmp_path: Path) -> None:
    for template, lrs in ((0, (1e-4, 3e-4)), (2, (1e-4, 3e-4, 5e-4)), (1, (1e-4,))):
        for lr in lrs:
            make_run(tmp_path / f"{template}-{lr}", template=template, lr=lr, val_f1=0.9 + template / 100)
    settings = group(read_runs(tmp_path))
    assert [[s.axes["lr"] for s in one] for one in shown_lr_series(settings)] == [[1e-4, 3e-4, 5e-4], [1e-4, 3e-4]]
    assert [[s.axes["lr"] for s in one] for one in shown_lr_series(settings, most=1)] == [[1e-4, 3e-4, 5e-4]]


def test_of_equal_series_the_best_is_shown(tmp_path: Path) -> None:
    for template, val_f1 in ((0, 0.90), (1, 0.95), (2, 0.91)):
        for lr in (1e-4, 3e-4):
            make_run(tmp_path / f"{template}-{lr}", template=template, lr=lr, val_f1=val_f1)
    ((first, _),) = shown_lr_series(group(read_runs(tmp_path)), most=1)
    assert first.axes["template"] == 1


def test_only_runs_on_the_same_data_are_compared(tmp_path: Path) -> None:
    for i in range(3):
        make_run(tmp_path / f"a{i}", seed=i, digest="a" * 64)
    make_run(tmp_path / "b", seed=0, digest="b" * 64)  # same names, other content
    make_run(tmp_path / "c", data="sample", digest="c" * 64)
    runs = read_runs(tmp_path)
    assert {r.name for r in same_data(runs, None) if r.state == "other data"} == {"b", "c"}
    assert {r.name for r in same_data(runs, "sample") if r.scored} == {"c"}
    assert {r.name for r in same_data(runs, "bbbb") if r.scored} == {"b"}
    with pytest.raises(ConfigError, match=r"data must name .* Known: livedoor \(aaaa"):
        same_data(runs, "nothing")


def test_folds_of_one_corpus_belong_together(tmp_path: Path) -> None:
    for fold in range(3):
        run = make_run(tmp_path / str(fold), digest=str(fold) * 64)
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(config.replace("split_seed: 42", f"split_seed: 42\n  fold: {fold}"))
    runs = same_data(read_runs(tmp_path), None)
    assert all(run.scored for run in runs)
    (setting,) = group(runs)
    assert len(setting.runs) == 3


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("5e-4", 5e-4), ("1.5", 1.5), ("007", "007"), ("nan", "nan"), ("1e999", "1e999"), ("a", "a")],
)
def test_as_number(text: str, number: object) -> None:
    assert as_number(text) == number and type(as_number(text)) is type(number)


@pytest.mark.parametrize(
    "values",
    [
        ({"name": "none", "startup_runs": 4}, {"name": "none", "startup_runs": 8}),
        ({"name": "none"}, {"name": "median"}),
    ],
)
def test_a_pruner_makes_no_settings(tmp_path: Path, values: tuple[dict[str, object], dict[str, object]]) -> None:
    for seed, pruner in enumerate(values):
        path = make_run(tmp_path / str(seed), seed=seed) / "config.yaml"
        path.write_text(path.read_text(encoding="utf-8") + yaml.safe_dump({"pruner": pruner}), encoding="utf-8")
    (setting,) = group(read_runs(tmp_path))
    assert len(setting.runs) == 2


def test_keys_of_an_adapter_that_is_not_there_make_no_settings(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = make_run(tmp_path / str(seed), seed=seed, lora_r=4 * seed) / "config.yaml"
        path.write_text(path.read_text(encoding="utf-8").replace("enabled: true", "enabled: false"), encoding="utf-8")
    (setting,) = group(read_runs(tmp_path))
    assert len(setting.runs) == 2
