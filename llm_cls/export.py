"""``python -m llm_cls.export run=DIR output=DIR``: a finished run as a model that other software loads."""

import sys

from llm_cls.cli import printable, quiet_libraries, run_command, say, shown_path
from llm_cls.config.arguments import read_arguments
from llm_cls.config.exporting import ExportArguments
from llm_cls.training.launch import check_launcher


def main() -> None:
    """The command."""
    if (arguments := read_arguments(ExportArguments, "export")) is None:
        return
    check_launcher()

    from llm_cls.exporting.export import export  # torch takes seconds to import
    from llm_cls.exporting.push import push

    quiet_libraries()
    parity = export(arguments)
    for line in parity.lines():
        say(printable(line))
    say(f"  {shown_path(arguments.output)}")
    if arguments.push is not None:
        say(f"  {push(arguments.output, arguments.push, arguments.private)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
