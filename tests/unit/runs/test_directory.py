"""The life of a run in its directory: begin, resume, complete, discard, and who may write."""

import errno
import fcntl
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import filelock
import pytest

from llm_cls.errors import ArtifactError, LockedError, OtherRunError, ResourceError
from llm_cls.files import atomic_folder, check_digest, missing_folders, write_json
from llm_cls.runs import layout
from llm_cls.runs.config_file import dump_config, read_config
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.identity import FACTS, identity
from llm_cls.runs.layout import LOCK
from llm_cls.runs.lock import is_locked
from llm_cls.runs.manifest import write_model_manifest
from llm_cls.runs.record import changed_conditions, new_record
from llm_cls.runs.schema import (
    SCHEMA,
    DataRecord,
    Durations,
    Epoch,
    Metrics,
    ModelRecord,
    Prediction,
    RunRecord,
    Scores,
    TestScores,
    ValScores,
)
from llm_cls.runs.state import find_run_directories, read_result
from tests.unit.runs.conftest import held
from tests.unit.runs.test_identity import FACT_VALUES, config

SCORES: dict[str, Any] = {"loss": 0.5} | dict.fromkeys(("accuracy", "precision", "recall", "f1"), 1.0)


def record(**overrides: Any) -> RunRecord:
    data = DataRecord(name="sample", digest="d", n_train=8, n_val=1, n_test=1, labels=["x"])
    return new_record(identity(config(**overrides), FACT_VALUES), ["seed=1"], data, ModelRecord(name="m"), "cpu", 1)


def metrics() -> Metrics:
    return Metrics(
        schema_version=SCHEMA, status="finished", collapsed=False, best_epoch=1, epochs_run=1,
        val=ValScores(**SCORES, n=1), test=TestScores(**SCORES, n=1, f1_ci95=[1.0, 1.0]), per_class={},
        seconds=Durations(total=1.0),
    )  # fmt: skip


def complete(directory: RunDirectory, begun: RunRecord) -> None:
    """Writes what a run writes at its end."""
    for split in ("val", "test"):
        directory.write_predictions(
            split, iter([Prediction(id="1", label="x", prediction="x", probabilities={"x": 1.0})])
        )
    with atomic_folder(directory.path / layout.MODEL) as folder:
        for name in (layout.HEAD, layout.LABELS):
            (folder / name).touch()
        write_model_manifest(folder)
    directory.commit(begun.model_copy(update={"finished_at": "now"}), metrics())


def test_a_run_begins_resumes_and_completes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    parts = record().identity
    assert parts is not None
    assert directory.state.name == "planned" and directory.result(parts) is None
    with directory.lock():
        first = directory.begin(config(), record())
        (directory.path / ".x.tmp").touch()
        directory.write_history([Epoch(epoch=1, val=Scores(**SCORES), seconds=1.0)])
        assert directory.state.name == "running"
    assert directory.state.name == "interrupted"
    directory.record_failure("out of memory", 4)
    assert (directory.state.name, directory.state.reason) == ("failed", "out of memory")
    with directory.lock():
        again = directory.begin(config(), record().model_copy(update={"started_at": "later", "overrides": []}))
        assert again == first, "what began the run stays on record"
        assert not (directory.path / ".x.tmp").exists() and not (directory.path / layout.FAILURE).exists()
        directory.new_checkpoint(1).parent.mkdir()
        directory.new_checkpoint(1).touch()
        directory.keep_checkpoint(1, None)
        complete(directory, again)
    assert directory.result(parts) == metrics()
    assert (directory.state.name, directory.state.epochs, directory.state.max_epochs) == ("finished", 1, 10)
    assert not directory.checkpoints


def test_a_directory_of_another_run_is_refused_with_the_keys(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.begin(config(), record())
    other = record(seed=7)
    assert other.identity is not None
    for attempt in (lambda: directory.begin(config(seed=7), other), lambda: directory.result(other.identity or {})):
        with pytest.raises(OtherRunError, match=r"another configuration \(seed: 42 there, 7 here\)"):
            attempt()
    assert directory.begin(config(), record()).identity == record().identity, "nothing was overwritten"


def test_a_run_of_schema_1_resumes(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    old = record().model_dump(mode="json", by_alias=True)
    old["identity"] = {key: old["identity"][key] for key in (*FACTS, "seed", "trainer.max_epochs")} | {
        "lora": {"r": 32}
    }
    write_json(tmp_path / layout.RECORD, old | {"schema": 1, "started_at": "2026-01-31T12:00:00+00:00"})
    (tmp_path / layout.CONFIG).write_text(dump_config(config()), encoding="utf-8")
    found = directory.begin(config(), record())
    assert (found.schema_version, found.identity) == (SCHEMA, record().identity)
    assert found.started_at == "2026-01-31T12:00:00+00:00"
    other = record(seed=7)
    with pytest.raises(OtherRunError, match="seed: 42 there, 7 here"):
        directory.begin(config(seed=7), other)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"identity": None}, "run.json is damaged: identity is missing"),
        ({"identity": {"seed": 1}}, "run.json is damaged: identity: trainer.max_epochs must be"),
        ({"model": None}, "run.json is damaged: model "),
    ],
)
def test_a_damaged_record_is_not_overwritten(tmp_path: Path, changes: dict[str, object], part: str) -> None:
    write_json(tmp_path / layout.RECORD, record().model_dump(mode="json", by_alias=True) | changes)
    before = (tmp_path / layout.RECORD).read_bytes()
    with pytest.raises(ArtifactError) as caught:
        RunDirectory(tmp_path).begin(config(), record())
    assert part in str(caught.value) and "start again" in str(caught.value)
    assert (tmp_path / layout.RECORD).read_bytes() == before


@pytest.mark.parametrize("begun", ["", "checkpoints/last.ckpt", "checkpoints/epoch-0001-abc.ckpt", "history.jsonl"])
def test_a_failed_run_is_discarded_unless_it_can_resume(tmp_path: Path, begun: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    names = {"config.yaml", "run.json", "manifest.json"} | ({begun} if begun else set())
    for name in names:
        (tmp_path / name).touch()
    RunDirectory(tmp_path).discard()
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == (names | {"checkpoints"} if begun else set())


def test_the_checkpoint_before_the_last_is_kept(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.new_checkpoint(1).parent.mkdir()
    kept: list[Path] = []
    for epoch in (1, 2, 3, 12):
        directory.new_checkpoint(epoch).write_text(str(epoch))
        sealed = directory.keep_checkpoint(epoch, kept[-1] if kept else None)
        assert sealed is not None
        kept.append(sealed)
    assert directory.checkpoints == [kept[3], kept[2]], "the newest first"
    assert sorted(kept[3].parent.iterdir()) == sorted(kept[2:]), "nothing else is left"
    check_digest(kept[3])
    kept[3].write_text("13")
    with pytest.raises(ValueError, match="its sha256 must be"):
        check_digest(kept[3])


def test_processes_that_do_not_write_leave_no_trace(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run", writes=False)
    with directory.lock():
        directory.begin(config(), record())
        directory.write_history([])
        directory.write_predictions("val", iter([]))
        directory.commit(record(), metrics())
        directory.discard()
        directory.check_exists()
    assert not directory.path.exists()


def test_a_removed_directory_is_reported_as_the_cause(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with pytest.raises(ResourceError, match="was removed during the run"), directory.explain_removal():
        raise FileNotFoundError("x")
    directory.begin(config(), record())
    with pytest.raises(FileNotFoundError), directory.explain_removal():
        raise FileNotFoundError("x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"threads": 1}, ["threads (OMP_NUM_THREADS): 2 before, 1 now"]),
        ({"threads": None}, []),
        ({"world_size": 2, "hardware": "gpu"}, ["hardware: cpu before, gpu now", "processes: 1 before, 2 now"]),
        ({"cpu_capability": "AVX2"}, ["CPU instructions: AVX512 before, AVX2 now"]),
        ({"versions": {"torch": "3.0", "numpy": "9"}}, ["torch: 2.13 before, 3.0 now"]),
        ({"started_at": "later", "overrides": ["seed=2"]}, []),
    ],
)
def test_what_may_change_the_last_digits_of_a_resumed_run(change: dict[str, object], said: list[str]) -> None:
    conditions = {"threads": 2, "cpu_capability": "AVX512", "versions": {"torch": "2.13", "numpy": "2"}}
    before = record().model_copy(update=conditions)
    assert changed_conditions(before, before.model_copy(update=change)) == said


def test_a_run_without_a_checkpoint_begins_under_the_conditions_of_now(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    first = directory.begin(config(), record().model_copy(update={"threads": 2, "started_at": "first"}))
    here = record().model_copy(update={"threads": 1, "started_at": "second"})
    assert directory.begin(config(), here) == first.model_copy(update={"threads": 1})
    directory.new_checkpoint(1).parent.mkdir()
    directory.new_checkpoint(1).touch()
    directory.keep_checkpoint(1, None)
    assert directory.begin(config(), here.model_copy(update={"threads": 4})).threads == 1


def test_only_directories_of_runs_are_found(tmp_path: Path) -> None:
    for name in ("b/metrics.json", "b/model/config.yaml", "a/run.json", "c/notes.txt", "d/e/failed.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    found = [path.relative_to(tmp_path).as_posix() for path in find_run_directories(tmp_path)]
    assert found == ["a", "b", "d/e"], "nothing below a run, no links"


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with (
        held(tmp_path / LOCK) as pid,
        pytest.raises(LockedError, match=rf"in use by another process \(pid {pid}\)\. Wait for it"),
        directory.lock(),
    ):
        pass


@pytest.mark.parametrize("shared", [True, False])
def test_a_held_lock_is_seen_with_and_without_shared_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "not here")

    assert not is_locked(tmp_path)
    with held(tmp_path / LOCK):
        if not shared:
            monkeypatch.setattr(fcntl, "flock", refuse)
            monkeypatch.setattr(filelock.FileLock, "acquire", Mock(side_effect=filelock.Timeout("")))
        assert is_locked(tmp_path)
    monkeypatch.undo()
    assert not is_locked(tmp_path)


def test_readers_of_a_lock_are_not_taken_for_its_holder(tmp_path: Path) -> None:
    (tmp_path / LOCK).touch()
    with (tmp_path / LOCK).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not is_locked(tmp_path)


def test_a_run_that_did_not_begin_removes_only_what_was_created_for_it(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "today" / "run"
    (tmp_path / "runs").mkdir()
    created = [run / "train.log", run / LOCK, *missing_folders(run)]
    run.mkdir(parents=True)
    (run / "train.log").touch()
    with held(run / LOCK):
        RunDirectory(run).remove_created(created)
        assert {path.name for path in run.iterdir()} == {"train.log", LOCK}, "another process begins there"
    RunDirectory(run).remove_created(created)
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"], "an empty folder of the user's stays"
    RunDirectory(run).remove_created(created)  # another rank has done it
    (tmp_path / "runs" / "notes.txt").touch()
    own = [tmp_path / "runs" / LOCK]
    RunDirectory(tmp_path / "runs").remove_created(own)
    RunDirectory(tmp_path / "runs").remove_created([])
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs", tmp_path / "runs" / "notes.txt"]


def test_a_run_that_began_keeps_its_log(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.begin(config(), record())
    (tmp_path / "train.log").touch()
    directory.remove_created([tmp_path / "train.log"])
    assert (tmp_path / "train.log").exists()


@pytest.mark.parametrize("name", ["model", "predictions", "checkpoints"])
def test_a_file_where_a_folder_belongs_is_found_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ResourceError) as caught:
        RunDirectory(tmp_path).begin(config(), record())
    assert str(caught.value) == f"{tmp_path / name} must be a writable folder. Move what is there out of the way"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    ["train.log", "config.yaml", "failed.json", "predictions/val.jsonl", "predictions/test.jsonl",
     "manifest.json"],
)  # fmt: skip
def test_a_folder_where_a_file_belongs_is_found_before_training(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ResourceError) as caught:
        RunDirectory(tmp_path).begin(config(), record())
    assert str(caught.value) == f"{tmp_path / name} must be a writable file. Move what is there out of the way"


def test_a_damaged_learning_curve_hides_no_result(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    complete(directory, directory.begin(config(), record()))
    (tmp_path / layout.HISTORY).write_text("{")
    assert read_result(tmp_path)[1] == metrics() and directory.state.name == "damaged"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("[" * 200_000, r"nested more than 50 levels|maximum nesting depth"),  # libyaml may have a limit of its own
    ],
)
def test_a_deeply_nested_configuration_is_damaged_and_ends_no_process(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / layout.CONFIG).write_text(text)
    with pytest.raises(ArtifactError, match=fault) as raised:
        read_config(tmp_path / layout.CONFIG)
    assert len(str(raised.value).splitlines()) == 1
