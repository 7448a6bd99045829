"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost")  # servers that the tests themselves start

if not Path("/dev/nvidiactl").exists():  # without a GPU Triton's interpreter runs the kernels
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of materials beside the repository: real corpus, real tokenizer. A user's clone has none."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared")
    return folder
