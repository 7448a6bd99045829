"""Whole trainings in one pass and alone: whether a pass moves a run further than other roundings move it alone.

    python benchmarks/rounding.py output=DIR seed=1,2,3,4 optimizer.lr=5e-4,1e-3,2e-3 model=ja-mini data=livedoor

The same sweep is trained alone with several micro batch sizes, and once in passes. The texts of each step, the seeds
and the dropout masks are the same in all of them (masks on a GPU only: on a CPU take ``lora.lora_dropout=0``). What
differs is the order of sums, and so the rounding. In bfloat16 that grows over a training, for a run alone as well: a
pass is as good as a run alone if it is no further from the runs alone than these are from one another.

Own arguments: ``output`` (a folder; what is finished there is not trained again), ``micro`` (32,16,8: micro batch sizes
of the runs alone, the first one also that of the pass), ``concurrent`` (12: runs of a pass, a divisor of the number of
runs). All others are those of ``python -m llm_cls.train --multirun``.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_cls.config.compose import quoted
from llm_cls.runs.predictions import read_predictions
from llm_cls.runs.state import RunState
from llm_cls.runs.sweep import read_states

OWN = {"output": "", "micro": "32,16,8", "concurrent": "12"}
PASS = "pass"
COLUMNS = ("train loss", "val loss", "val probs", "test probs", "labels %", "test F1")
TESTED = COLUMNS[:4]  # the others are often exactly equal
DRAWS = 100_000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """What one run has computed.

    Attributes:
        identity: All settings that can change its result.
        hardware: The device, and on a CPU the number of threads.
        train_loss, val_loss: Per epoch.
        val, test: Probabilities of the texts, shape ``(n, n_labels)``.
        f1: On test, in percent.
        period: When it began and when it was finished.
    """

    identity: Mapping[str, Any]
    hardware: tuple[str, int | None]
    train_loss: Array
    val_loss: Array
    val: Array
    test: Array
    f1: float
    period: tuple[datetime, datetime]

    def squared_distances(self, other: "Run") -> list[float]:
        """Mean squared differences, one for each of ``COLUMNS``; of "labels %" and "test F1" the absolute ones."""
        pairs = [(getattr(self, key), getattr(other, key)) for key in ("train_loss", "val_loss", "val", "test")]
        labels = 100 * float((self.test.argmax(axis=1) != other.test.argmax(axis=1)).mean())
        return [*(float(((a - b) ** 2).mean()) for a, b in pairs), labels, abs(self.f1 - other.f1)]


Sweep = Mapping[str, Run]  # by the names of their folders


def train(folder: Path, overrides: Sequence[str]) -> Sweep:
    """Trains a sweep by the public command and reads its results."""
    line = ["--multirun", *overrides, f"hydra.sweep.dir={quoted(str(folder))}"]
    print("python -m llm_cls.train", *line, flush=True)
    started = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "llm_cls.train", *line], check=False).returncode
    if code:
        raise SystemExit(f"{folder}: llm_cls.train has ended with exit code {code}")
    print(f"{folder}: {time.perf_counter() - started:.0f} s", flush=True)
    return {run.entry.directory: read(folder / run.entry.directory, run.state) for run in read_states(folder)}


def read(folder: Path, state: RunState) -> Run:
    """The results of a finished run with scores."""
    record, metrics = state.record, state.metrics
    if state.name != "finished" or record is None or metrics is None or metrics.test is None:
        raise SystemExit(f"{folder} is {state.name}; only finished runs with a test split can be compared")
    val, test = (read_predictions(folder, split, record.data.labels).probabilities for split in ("val", "test"))
    losses = np.array([(epoch.train_loss, epoch.val.loss) for epoch in state.history], dtype=np.float64)
    assert record.identity and record.started_at and record.finished_at and metrics.test.f1 is not None
    times = datetime.fromisoformat(record.started_at), datetime.fromisoformat(record.finished_at)
    hardware = str(record.hardware), record.threads
    return Run(record.identity, hardware, losses[:, 0], losses[:, 1], val, test, 100 * metrics.test.f1, times)


def check(ways: Mapping[str, Sweep], concurrent: int) -> None:
    """Ends the program unless all ways have the same runs, and those of the pass have trained together."""
    first, joint = next(iter(ways.values())), ways[PASS]
    for way, sweep in ways.items():
        if {name: run.identity for name, run in sweep.items()} != {name: run.identity for name, run in first.items()}:
            raise SystemExit(f"{way} has other runs than the first way. Take a new folder as output")
    for name, run in joint.items():
        # The record has whole seconds: of runs that follow one another none begins before the other has ended.
        others = [other.period for other in joint.values() if other is not run]
        together = sum(begin < run.period[1] and run.period[0] < end for begin, end in others) + 1
        if together < min(concurrent, len(joint)):
            raise SystemExit(f"{PASS}/{name} has trained with {together - 1} others, not with {concurrent - 1}")
        on_cpu = run.hardware[1] is not None  # there, products of more rows may have the same bits
        for way, sweep in ways.items():
            if not on_cpu and way != PASS and (run.train_loss == sweep[name].train_loss).all():
                raise SystemExit(f"{PASS}/{name} has the same bits as {way}/{name}: it has been computed alone")


def seeds_apart(sweep: Sweep) -> Array:
    """Distances between runs that differ in the seed alone, shape ``(n_pairs, n_columns)``."""
    found = []
    for one, two in itertools.combinations(sweep.values(), 2):
        keys = one.identity.keys() | two.identity.keys()
        if [key for key in keys if one.identity.get(key) != two.identity.get(key)] == ["seed"]:
            found.append(one.squared_distances(two))
    return np.array(found)


def row(title: str, squares: Array) -> str:
    """Root mean squares over the runs; plain means of the last two columns."""
    means = squares.mean(axis=0)
    figures = [*np.sqrt(means[:4]), *means[4:]]
    return f"{title:<22}" + "".join(f"{x:>12.4g}" for x in figures) + f"{len(squares):>6}"


def odd_one(squares: Mapping[tuple[str, str], Array], ways: Sequence[str]) -> dict[str, Array]:
    """Per way, run and column of ``TESTED``: log of its distance to the others over theirs from one another."""
    found = {}
    for way in ways:
        own = np.mean([x for pair, x in squares.items() if way in pair], axis=0)
        rest = np.mean([x for pair, x in squares.items() if way not in pair], axis=0)
        found[way] = 0.5 * np.log(own[:, : len(TESTED)] / rest[:, : len(TESTED)])
    return found


def main() -> None:
    """Trains what is missing, and prints the tables."""
    own = OWN | dict(part.split("=", 1) for part in sys.argv[1:] if part.split("=")[0] in OWN)
    if not own["output"]:
        raise SystemExit("output is missing: the folder for the runs. Try output=outputs/rounding")
    given = [part for part in sys.argv[1:] if part.split("=")[0] not in OWN]
    output, micro, concurrent = Path(own["output"]).resolve(), own["micro"].split(","), int(own["concurrent"])
    if len(micro) < 3 or concurrent < 2:
        raise SystemExit("micro must have at least three sizes, and concurrent must be >= 2")
    plans = {f"alone {size}": (size, 1) for size in micro} | {PASS: (micro[0], concurrent)}
    ways = {
        way: train(output / way.replace(" ", "-"), [*given, f"data.micro_batch_size={size}", f"sweep.concurrent={n}"])
        for way, (size, n) in plans.items()
    }
    check(ways, concurrent)
    names = list(ways[PASS])
    run = ways[PASS][names[0]]
    print(f"\n{len(names)} runs, {len(run.val_loss)} epochs, {run.identity['trainer.precision']}, {run.hardware[0]}")
    squares = {
        (one, two): np.array([ways[one][name].squared_distances(ways[two][name]) for name in names])
        for one, two in itertools.combinations(ways, 2)
    }
    print(f"{'':<22}" + "".join(f"{column:>12}" for column in COLUMNS) + f"{'n':>6}")
    for (one, two), found in squares.items():
        print(row(f"{one} - {two}", found))
    if len(seeds := seeds_apart(ways[f"alone {micro[0]}"])):
        print(row("two training seeds", seeds))
    # If a pass is one more rounding, then of each run any of the ways could be the one that is called the pass.
    logs = odd_one(squares, list(ways))
    drawn = np.random.default_rng(0).integers(len(ways), size=(DRAWS, len(names)))
    means = np.stack(list(logs.values()))[drawn, np.arange(len(names))].mean(axis=1)  # shape (DRAWS, n_columns)
    observed = logs[PASS].mean(axis=0)
    p = (1 + (means >= observed - 1e-12).sum(axis=0)) / (1 + DRAWS)
    print(f"{'pass / alone':<22}" + "".join(f"{x:>12.2f}" for x in np.exp(observed)))
    print(f"{'p':<22}" + "".join(f"{x:>12.3f}" for x in p))
    print(
        "\nLosses and probabilities: root mean square of the difference. Labels: share of the test texts that differ."
        "\nF1: mean absolute difference, in points. pass / alone: distance of the pass to the runs alone, by that of"
        "\nthese to one another, geometric mean over the runs. p: of this ratio or more if the pass were one of them."
    )


if __name__ == "__main__":
    main()
