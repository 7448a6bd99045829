"""``calibration.json`` is noticed wherever it changes."""

import json
import shutil
from pathlib import Path

import pytest

from llm_cls.config.decisions import CalibrateArguments
from llm_cls.errors import ArtifactError
from llm_cls.reporting.calibration import calibrate
from llm_cls.runs.verify import verify_run
from tests.unit.reporting.calibrated_runs import calibrated_run, draw


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"val": draw(60, 2.0, 1), "test": draw(60, 2.0, 2)}
    made = calibrated_run(tmp_path_factory.mktemp("made") / "run", splits)
    calibrate(CalibrateArguments(run=made, alpha=0.2, oos="d", target_accuracy=0.5))
    return made


@pytest.mark.parametrize("bit", [0, 4])
def test_a_flipped_bit_is_noticed(run: Path, bit: int, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "calibration.json"
    content = path.read_bytes()
    for i in range(0, len(content), len(content) // 80):
        changed = bytearray(content)
        changed[i] ^= 1 << bit
        path.write_bytes(changed)
        try:
            verify_run(tmp_path / "run")
        except ArtifactError as error:
            assert "calibration.json" in str(error)
        else:
            assert json.loads(changed) == json.loads(content), f"byte {i}: only white space may change"


def test_other_predictions_are_noticed(run: Path, tmp_path: Path) -> None:
    """As after a run was trained again in its directory."""
    shutil.copytree(run, tmp_path / "run")
    verify_run(tmp_path / "run")
    with (tmp_path / "run" / "predictions" / "test.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ArtifactError, match=r"was fitted on other predictions than predictions/test.jsonl"):
        verify_run(tmp_path / "run")


def test_a_calibration_is_the_same_again(run: Path) -> None:
    """But for its time: the folds and the resampling have seeds."""
    before = json.loads((run / "calibration.json").read_text())
    calibrate(CalibrateArguments(run=run, alpha=0.2, oos="d", target_accuracy=0.5))
    after = json.loads((run / "calibration.json").read_text())
    times = {"created_at", "digest"}
    assert {k: v for k, v in before.items() if k not in times} == {k: v for k, v in after.items() if k not in times}
