"""``python -m llm_cls.predict run=DIR input=FILE output=FILE``: label new texts with a finished run."""

import sys

from llm_cls.cli import drop_stdout, note, quiet_libraries, run_command, say
from llm_cls.config.arguments import read_arguments
from llm_cls.config.scoring import STANDARD, PredictArguments
from llm_cls.data.standard import check_standard_streams
from llm_cls.errors import ConfigError
from llm_cls.files import check_output
from llm_cls.training.launch import check_launcher


def main() -> None:
    """The command."""
    if (arguments := read_arguments(PredictArguments, "predict")) is None:
        return
    check_launcher()
    check_standard_streams(arguments.input, arguments.output)
    to_file = str(arguments.output) != STANDARD
    if to_file:
        check_output(arguments.output)
        if arguments.output.resolve() == arguments.input.resolve():
            raise ConfigError(f"output={arguments.output} must not be the input file. Give another output")

    from llm_cls.training.prediction import predict  # torch takes seconds to import

    quiet_libraries()
    try:
        done = predict(arguments)
    except BrokenPipeError:  # as with | head
        drop_stdout()
        return
    if done.without_text:
        rows = f"{done.without_text:,} row{'s' * (done.without_text != 1)}"
        note(f"{rows} could not be labelled; the column error says why")
    if to_file:
        say(f"Labels of {done.rows:,} row{'s' * (done.rows != 1)}: {arguments.output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
