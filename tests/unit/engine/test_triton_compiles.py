"""The Triton kernels compile for the GPUs that people have, which the interpreter of the other tests does not show."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")


@pytest.mark.parametrize(
    ("arguments", "kernels"),
    [
        (["90"], 9),
        pytest.param(["90", "all"], 18, marks=pytest.mark.slow),
        pytest.param(["80", "all"], 15, marks=pytest.mark.slow),
        *(pytest.param([gpu, "ranks"], 5, marks=pytest.mark.slow) for gpu in ("75", "80", "89", "90")),
    ],
)
def test_the_kernels_compile(arguments: list[str], kernels: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.engine.compile_kernels", *arguments]
    variables = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}  # so that they are compiled
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("_kernel") == kernels
