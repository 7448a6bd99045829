"""Labels for new texts from a finished run."""

import numpy as np
import numpy.typing as npt

from llm_cls.config.commands import PredictArguments
from llm_cls.config.schema import Config
from llm_cls.data.rows import column, read_rows
from llm_cls.data.template import render
from llm_cls.errors import ConfigError
from llm_cls.training.loaded import load_run, open_run, scoring_hardware


def predict_file(arguments: PredictArguments) -> tuple[list[str], tuple[str, ...], npt.NDArray[np.float64]]:
    """The labels and their probabilities for every text of a table, in its order.

    Returns:
        ``(ids, labels, probabilities)``; the probabilities have shape ``(n, n_labels)``.

    Raises:
        LlmClsError: The run is not finished or is damaged, or the table is not valid.
    """
    opened = open_run(arguments.run, arguments.trust_remote_code)
    ids, pieces = _read_texts(arguments, opened.config)
    loaded = load_run(opened, scoring_hardware(arguments.accelerator))
    return ids, opened.labels, np.exp(loaded.log_probabilities(pieces, arguments.batch_size))


def _read_texts(arguments: PredictArguments, config: Config) -> tuple[list[str], list[tuple[str, str]]]:
    """Ids and template pieces of the input; the columns are those of the training data unless named."""
    if arguments.output.resolve() == arguments.input.resolve():
        raise ConfigError("output must not be the input file")
    rows = read_rows(arguments.input)
    data = config.data
    body_name = arguments.text or arguments.body or data.text or data.body or "body"
    bodies = column(rows, body_name, "text" if data.text else "body", arguments.input)
    titles = [""] * len(rows)
    if config.template.uses_title:
        titles = column(rows, arguments.title or data.title or "title", "title", arguments.input)
    id_name = arguments.id or data.id or "id"
    ids = [str(i + 1) for i in range(len(rows))]
    if arguments.id or id_name in rows[0]:
        ids = column(rows, id_name, "id", arguments.input, may_be_empty=True)
    pieces = [render(config.template.text, title, body) for title, body in zip(titles, bodies, strict=True)]
    return ids, pieces
