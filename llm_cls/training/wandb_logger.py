"""W&B through Lightning's logger. It never asks for input, and a failure of W&B never stops a run."""

import logging
import netrc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

from llm_cls.cli import summarize
from llm_cls.config.schema import Config
from llm_cls.data.corpus import Corpus
from llm_cls.errors import first_line
from llm_cls.metrics.evaluation import Evaluation
from llm_cls.runs.content import plain
from llm_cls.runs.directory import RunDirectory
from llm_cls.runs.schema import Metrics, RunRecord

log = logging.getLogger(__name__)


class _TolerantLogger(WandbLogger):
    """Lightning's logger, which stops logging once W&B has failed, for example because its process was killed."""

    failed = False

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
            action()
        except Exception as error:
            self.failed = True
            log.warning("W&B failed, the run continues without it: %s", first_line(error))


class RunLogger:
    """A W&B run, or nothing where W&B could not be started."""

    def __init__(self, logger: _TolerantLogger | None) -> None:
        """Wraps ``logger``."""
        self.lightning: _TolerantLogger | Literal[False] = logger or False
        self._wandb: Any = logger.experiment if logger else None

    def log_results(self, metrics: Metrics, test: Evaluation, corpus: Corpus) -> None:
        """Final figures, confusion matrix, per-class table and table of the test predictions."""
        if self.lightning:
            self.lightning.attempt(lambda: self._log_results(metrics, test, corpus))

    def _log_results(self, metrics: Metrics, test: Evaluation, corpus: Corpus) -> None:
        import wandb

        splits = {"val": metrics.val.model_dump(), "test": metrics.test.model_dump()}
        summary = {f"{split}/{name}": value for split, scores in splits.items() for name, value in scores.items()}
        kept = {"status", "collapsed", "best_epoch", "epochs_run", "tokens_per_second", "peak_memory_gib"}
        summary |= metrics.model_dump(include=kept) | {"total_seconds": metrics.seconds.total}
        self._wandb.summary.update({f"best/{k}" if "/" in k else k: v for k, v in summary.items()})
        if not test.finite:
            return
        names = list(corpus.labels)
        columns: list[str | int] = ["id", "title", "label", "prediction", "correct", *(f"p({name})" for name in names)]
        rows = [
            [text.id, text.title, text.label, names[best], text.label == names[best], *map(float, p)]
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
def run_logger(config: Config, directory: RunDirectory, record: RunRecord) -> Iterator[RunLogger]:
    """The logger of a run; it is finished with the exit code of the run in any case.

    Online where an API key is configured and W&B answers, otherwise offline below ``directory``, with the
    command that uploads it. Of several processes only the one that writes logs.
    """
    if config.logger.name == "none" or not directory.writes:
        yield RunLogger(None)
        return
    os.environ.setdefault("WANDB_SILENT", "true")  # its messages would break the progress bar
    logger = RunLogger(_start(config, directory.path, record))
    code = 0
    try:
        yield logger
    except BaseException as error:
        code = summarize(error)[1]
        raise
    finally:
        _finish(logger, code)


def _start(config: Config, directory: Path, record: RunRecord) -> _TolerantLogger | None:
    import wandb

    modes = ["offline"]
    if config.logger.mode == "online" or (config.logger.mode == "auto" and _has_key()):
        modes = ["online", "offline"]
    if os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        modes = [os.environ["WANDB_MODE"]]
    for mode in modes:
        settings = wandb.Settings(mode=mode, silent=True, console="off", init_timeout=30, disable_git=True)
        try:
            run = wandb.init(
                name=directory.name,
                dir=str(directory),
                project=config.logger.project,
                entity=config.logger.entity,
                group=config.logger.group,
                tags=config.logger.tags,
                config={**config.model_dump(mode="json"), "run": plain(record)},
                settings=settings,
            )
            logger = _TolerantLogger(experiment=run)
        except Exception as error:  # no error of W&B may stop the training
            log.warning("W&B could not be started %s: %s", mode, first_line(error))
            _drop_service()
        else:
            return logger
    return None


def _has_key() -> bool:
    """Whether an API key is in the environment, the settings or ``.netrc``; never asks for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or "api.wandb.ai"
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _finish(logger: RunLogger, code: int) -> None:
    if logger._wandb is None:
        return
    offline, folder = logger._wandb.offline, Path(logger._wandb.dir).parent
    try:
        logger._wandb.finish(exit_code=code)
    except Exception as error:
        log.warning("W&B could not finish its run: %s", first_line(error))
        _drop_service()
    if offline and code == 0:
        log.info("W&B was offline. Upload this run with: wandb sync %s", os.path.relpath(folder))


def _drop_service() -> None:
    """Drops W&B's process, which may be dead, so that the next run of a sweep starts another."""
    import wandb

    with suppress(Exception, SystemExit):
        wandb.teardown()
