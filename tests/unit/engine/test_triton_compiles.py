"""The Triton kernels compile for the GPUs that people have; the interpreter of the other tests does not compile them."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")


@pytest.mark.parametrize(
    "arguments",
    [["90"], pytest.param(["90", "all"], marks=pytest.mark.slow), pytest.param(["80", "all"], marks=pytest.mark.slow)],
)
def test_every_kernel_compiles(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "tests.unit.engine.compile_kernels", *arguments]
    variables = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("_kernel") >= 14
