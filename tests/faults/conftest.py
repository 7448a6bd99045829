"""The experiments that are broken in every way, and the table of what happened."""

import pytest

from tests.conftest import Program
from tests.faults.harness import TALLIES, TINY, Experiment, Tally, table


@pytest.fixture(scope="session")
def single_run(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """One run of two epochs."""
    return Experiment(program, tmp_path_factory.mktemp("single"), "run", [*TINY, "hydra.run.dir=run"])


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts for the table, under the name of the test."""
    tally = Tally(request.node.nodeid.rpartition("/")[2])
    TALLIES.append(tally)
    return tally


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the table."""
    if TALLIES:
        terminalreporter.section("faults")
        for line in table():
            terminalreporter.write_line(line)
