"""The test predictions of a run in the report."""

from llm_cls.errors import ArtifactError
from llm_cls.reporting.runs import Run
from llm_cls.runs.predictions import Predictions, read_predictions


def read_test_predictions(run: Run) -> Predictions:
    """``predictions/test.jsonl`` of a scored run.

    Raises:
        ValueError: The file is missing or damaged.
    """
    assert run.record is not None
    try:
        texts = read_predictions(run.path, "test", run.record.data.labels)
    except ArtifactError as error:
        raise ValueError(str(error)) from None
    if len(texts.ids) != run.record.data.n_test:
        raise ValueError(f"{len(texts.ids)} lines, expected {run.record.data.n_test}")
    return texts
