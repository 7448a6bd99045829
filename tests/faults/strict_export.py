"""``python -m tests.faults.strict_export run=DIR output=DIR``: an export that may not differ from its run at all."""

import sys

from llm_cls import export
from llm_cls.cli import run_command
from llm_cls.exporting.parity import LIMITS

if __name__ == "__main__":
    LIMITS["float32"] = (0.0, 0.0)
    sys.exit(run_command(export.main))
