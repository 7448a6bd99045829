"""``python -m llm_cls.benchmark [overrides] [engine=fast,reference]``: speed and memory on this machine."""

import itertools
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm_cls.cli import quiet_libraries, run_command, say
from llm_cls.config.arguments import read_arguments, wants_help
from llm_cls.config.commands import BenchmarkArguments
from llm_cls.config.compose import accept_plain_values, compose_tree
from llm_cls.config.overrides import explained
from llm_cls.config.schema import Config, parse_config
from llm_cls.files import check_output, write_json
from llm_cls.training.launch import check_launcher

MORE = """All groups and keys of training can be given too, for example model=rinna-3.6b or data.batch_size=8.
python -m llm_cls.train --help explains them."""


def main() -> None:
    """The command."""
    own = [argument for argument in sys.argv[1:] if _is_own(argument)]
    overrides = [argument for argument in sys.argv[1:] if not _is_own(argument)]
    if (arguments := read_arguments(BenchmarkArguments, "benchmark", MORE, own)) is None:
        return
    check_launcher()
    accept_plain_values()
    configs = [_compose([*overrides, f"engine={engine}"]) for engine in arguments.engine.split(",")]

    from llm_cls.training.prepare import prepare  # torch takes seconds to import
    from llm_cls.training.shared import Shared
    from llm_cls.training.speed import largest_micro_batch, matmul_tflops, measure

    quiet_libraries()
    results: list[dict[str, Any]] = []
    shared = Shared()
    inputs = [prepare(config, shared) for config in configs]
    path = arguments.output or Path(f"outputs/benchmark/{datetime.now(UTC):%Y-%m-%d_%H-%M-%S-%f}.json")
    check_output(path)
    hardware = inputs[0].hardware
    ceiling = matmul_tflops(hardware.device, hardware.frozen_dtype)
    for given, runs in itertools.product(inputs, map(int, arguments.concurrent.split(","))):
        if runs > 1 and given.config.engine.name == "reference":
            continue  # its runs do not train together
        row = measure(given, arguments.steps, arguments.warmup, runs)
        row["matmul_fraction"] = row["tflops"] / ceiling
        if arguments.fit and runs == 1:
            row["largest_micro_batch"] = largest_micro_batch(given)
        results.append(row)
    reference = next((row for row in results if row["engine"] == "reference"), None)
    for row in results:
        alone = reference and reference["step_seconds"] / reference["runs"]
        row["times_reference"] = alone / row["step_seconds"] * row["runs"] if alone else None
    record = {
        "results": results,
        "overrides": overrides,
        "device": hardware.description,
        "precision": hardware.precision,
        "matmul_tflops": ceiling,
        "versions": _versions(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    say(_table(record))
    write_json(path, record)
    say(f"Written to {path}")


def _is_own(argument: str) -> bool:
    """Whether ``argument`` belongs to the benchmark, not to the configuration of a run."""
    return argument.partition("=")[0] in BenchmarkArguments.model_fields or wants_help([argument])


def _compose(overrides: list[str]) -> Config:
    with explained(overrides):
        return parse_config(compose_tree(overrides))


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": str(torch.version.cuda)}


def _table(record: dict[str, Any]) -> str:
    lines = [
        f"{record['device']}, {record['precision']}, matrix products {record['matmul_tflops']:.1f} TFLOP/s",
        f"{'engine':<10} {'runs':>4} {'layers':<7} {'s/step':>8} {'spread':>15} {'texts/s':>8} {'tokens/s':>9} "
        f"{'s/epoch':>8} {'eval tok/s':>10} {'GiB':>6} {'first step':>10} {'of ceiling':>10} {'fits':>5} "
        f"{'x reference':>11}",
    ]
    for row in record["results"]:
        low, high = row["step_seconds_spread"]
        ratio = f"{row['times_reference']:.2f}" if row["times_reference"] else "-"
        lines.append(
            f"{row['engine']:<10} {row['runs']:>4} {row['layers']:<7} {row['step_seconds']:>8.4f} "
            f"{f'{low:.3f}-{high:.3f}':>15} {row['texts_per_second']:>8.1f} {row['tokens_per_second']:>9.0f} "
            f"{row['epoch_seconds']:>8.1f} {row['evaluation_tokens_per_second']:>10.0f} "
            f"{row['peak_memory_gib']:>6.1f} {row['first_step_seconds']:>10.1f} {row['matmul_fraction']:>10.0%} "
            f"{row.get('largest_micro_batch', '-'):>5} {ratio:>11}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
