"""``python -m llm_cls.report dir=DIR``: tables, plots and statistics over all runs below DIR."""

import sys
from datetime import UTC, datetime

from llm_cls.cli import printable, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.commands import ReportArguments
from llm_cls.errors import ConfigError, DataError
from llm_cls.files import check_output, write_text
from llm_cls.runs import layout


def main() -> None:
    """The command."""
    if (arguments := read_arguments(ReportArguments, "report")) is None:
        return
    if not arguments.dir.is_dir():
        raise ConfigError(f"dir={arguments.dir} is not a directory. Try dir=outputs/sweeps/NAME")

    from llm_cls.reporting.analysis import analyse, summary  # numpy need not be imported for the help
    from llm_cls.reporting.export import remove_tables, write_table
    from llm_cls.reporting.page import render

    target = arguments.dir / "report"
    check_output(target / "report.html")
    found = analyse(arguments.dir, arguments.data, arguments.baseline, arguments.monitor)
    if not found.runs:
        raise DataError(
            f"dir={arguments.dir} has no runs below it: no folder with {layout.CONFIG}, {layout.RECORD} or "
            f"{layout.METRICS}"
        )
    remove_tables(target)
    for table in found.tables:
        write_table(table, target)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    write_text(target / "report.html", render(found, arguments.dir.resolve().name, created))
    for line in summary(found):
        say(printable(line))
    say(f"Report: {target / 'report.html'}")


if __name__ == "__main__":
    sys.exit(run_command(main))
