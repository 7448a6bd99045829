"""W&B through Lightning's logger. It never asks for input, and a failure of W&B never stops a run."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import WandbLogger

from llm_cls.bounded import call_within
from llm_cls.cli import shown_path, summarize
from llm_cls.config.schema import Config
from llm_cls.data.corpus import Corpus
from llm_cls.errors import first_line
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.schema import Metrics, RunRecord
from llm_cls.training.wandb_session import Service, start

log = logging.getLogger(__name__)


class _TolerantLogger(WandbLogger):
    """Lightning's logger, which stops logging once W&B has failed, for example because its process was killed.

    Attributes:
        failed: Whether it has.
        unanswered: Whether W&B's process, which other runs use, did not answer.
    """

    failed = unanswered = False

    def __init__(self, run: Any, seconds: float, service: Service) -> None:
        """Takes a W&B run, the time that one call may take, and W&B's process."""
        super().__init__(experiment=run)
        self._seconds, self._service = seconds, service

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See ``WandbLogger``."""
        self.attempt(lambda: super(_TolerantLogger, self).log_metrics(metrics, step))

    def log_hyperparams(self, params: Any) -> None:
        """See ``WandbLogger``."""
        self.attempt(lambda: super(_TolerantLogger, self).log_hyperparams(params))

    def attempt(self, action: Callable[[], None]) -> None:
        """Runs ``action``; an error of W&B is reported once and does not stop the training."""
        if self.failed:
            return
        try:
            call_within(self._seconds, action)
        except Exception as error:
            self.failed = True
            log.warning("W&B failed, the run continues without it: %s", first_line(error))
            if isinstance(error, TimeoutError):
                self.unanswered = not self._service.give_up()


class RunLogger:
    """A W&B run, or nothing where W&B could not be started."""

    def __init__(self, logger: _TolerantLogger | None) -> None:
        """Wraps ``logger``."""
        self.lightning: _TolerantLogger | Literal[False] = logger or False
        self._wandb: Any = logger.experiment if logger else None

    def log_results(self, metrics: Metrics, test: Evaluation | None, corpus: Corpus, keep_texts: bool = True) -> None:
        """Final figures, confusion matrix, per-class table and table of the test predictions."""
        if self.lightning:
            self.lightning.attempt(lambda: self._log_results(metrics, test, corpus, keep_texts))

    def _log_results(self, metrics: Metrics, test: Evaluation | None, corpus: Corpus, keep_texts: bool) -> None:
        import wandb

        splits = {
            "val": metrics.val.model_dump(exclude_unset=True),
            "test": metrics.test.model_dump(exclude_unset=True) if metrics.test else {},
        }
        summary = {f"{split}/{name}": value for split, scores in splits.items() for name, value in scores.items()}
        kept = {"status", "collapsed", "best_epoch", "epochs_run", "tokens_per_second", "peak_memory_gib"}
        summary |= metrics.model_dump(include=kept) | {"total_seconds": metrics.seconds.total}
        self._wandb.summary.update({f"best/{k}" if "/" in k else k: v for k, v in summary.items()})
        if test is None or not test.finite:
            return
        names = list(corpus.labels)
        shows_titles = keep_texts or corpus.own_columns is None
        columns: list[str | int] = ["id", "title", "label", "prediction", "correct", *(f"p({name})" for name in names)]
        rows = [
            [
                text.id,
                text.title if shows_titles else "",
                text.label,
                names[best],
                text.label == names[best],
                *map(float, p),
            ]
            for text, best, p in zip(corpus.splits["test"], test.predictions, test.probabilities, strict=True)
        ]
        per_class = [(name, metrics.per_class[name]) for name in names]
        classes = [[name, *scores.model_dump().values()] for name, scores in per_class if scores is not None]
        self._wandb.log(
            {
                "test/confusion_matrix": wandb.plot.confusion_matrix(
                    y_true=test.labels.tolist(), preds=test.predictions.tolist(), class_names=names
                ),
                "test/per_class": wandb.Table(columns=["label", "precision", "recall", "f1", "support"], data=classes),
                "test/predictions": wandb.Table(columns=columns, data=rows),
            }
        )


@contextmanager
def run_logger(config: Config, directory: RunDirectory, record: RunRecord, service: Service) -> Iterator[RunLogger]:
    """The logger of a run; it is finished with the exit code of the run in any case.

    Online where an API key is configured and W&B answers, otherwise offline below ``directory``, with the
    command that uploads it. Of several processes only the one that writes logs.
    """
    if config.logger.name == "none" or not directory.writes:
        yield RunLogger(None)
        return
    os.environ.setdefault("WANDB_SILENT", "true")  # its messages would break the progress bar
    seconds = config.logger.timeout_seconds
    with service.used():
        run = start(config, directory.path, record, service)
        logger = RunLogger(None if run is None else _TolerantLogger(run, seconds, service))
        code = 0
        try:
            yield logger
        except BaseException as error:
            code = summarize(error)[1]
            raise
        finally:
            _finish(logger, code, seconds, service)


def _finish(logger: RunLogger, code: int, seconds: float, service: Service) -> None:
    run = logger._wandb
    if run is None:
        return
    offline, folder = run.offline, shown_path(Path(run.dir).parent)
    sync = f"wandb sync {'' if offline else '--include-online '}{folder}"
    try:
        if logger.lightning and logger.lightning.unanswered:
            raise TimeoutError("it did not answer")
        call_within(seconds, lambda: run.finish(exit_code=code))
    except Exception as error:
        log.warning("W&B could not finish its run: %s. Upload it with: %s", first_line(error), sync)
        service.give_up()
    else:
        if offline and code == 0:
            log.info("W&B was offline. Upload this run with: %s", sync)
