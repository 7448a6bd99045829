"""``python -m llm_cls.train [group=choice] [key=value] [--multirun]``: one run, or a sweep of them."""

import sys

from llm_cls.cli import run_command


def main() -> None:
    """The command. Its imports take a second, in which a signal is handled already."""
    from llm_cls.multirun.task import compose_and_run

    compose_and_run()


def command() -> None:
    """``llm-cls-train``: the same, under a name that a shell can complete."""
    sys.exit(run_command(main))


if __name__ == "__main__":
    command()
