"""``python -m llm_cls.report dir=DIR``: tables, plots and statistics over all runs below DIR."""

import sys
from datetime import datetime, timezone
from pathlib import Path

from pydantic import Field

from llm_cls.cli import printable, read_arguments, run_command, say
from llm_cls.config.schema import Section, validate
from llm_cls.errors import ConfigError, DataError
from llm_cls.files import write_text
from llm_cls.reporting.analysis import analyse, summary
from llm_cls.reporting.export import remove_tables, write_table
from llm_cls.reporting.page import render

USAGE = "python -m llm_cls.report dir=DIR [data=NAME] [baseline=true|false]"


class ReportConfig(Section):
    """The arguments of the command.

    Attributes:
        dir: Directory with runs below it; the report is written to ``report/`` there.
        data: Name, or beginning of the digest, of the corpus to report on, where the runs have several.
        baseline: Whether the classical baseline stands beside the runs.
    """

    dir: Path = Field(examples=["dir=outputs/sweeps/NAME"])
    data: str | None = None
    baseline: bool = True


def main() -> None:
    """The command."""
    if (values := read_arguments(USAGE)) is None:
        return
    if "dir" in values and not values["dir"]:
        raise ConfigError("dir must not be empty. Try dir=outputs/sweeps/NAME")
    config = validate(ReportConfig, values)
    if not config.dir.is_dir():
        raise ConfigError(f"dir must be a directory with runs below it, got {str(config.dir)!r}, which is not there")

    found = analyse(config.dir, config.data, config.baseline)
    if not found.runs:
        raise DataError(f"dir={config.dir} has no runs below it: no folder with config.yaml, run.json or metrics.json")
    target = config.dir / "report"
    remove_tables(target)
    for table in found.tables:
        write_table(table, target)
    created = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write_text(target / "report.html", render(found, config.dir.resolve().name, created))
    for line in summary(found):
        say(printable(line))
    say(f"Report: {target / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
