"""What counts as a secret, and that logs hide it."""

import logging

import pytest

from llm_cls.redaction import REDACTED, redact, redact_logs, redact_tree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:pw@host/x", "https://REDACTED@host/x"),
        ("https://abc@host/x", "https://REDACTED@host/x"),
        ("https://me:p@w@host/x", "https://REDACTED@host/x"),
        ("https://me:p/w?x#@host:80/x", "https://REDACTED@host:80/x"),
        ("https://a/x,https://me:pw@b/x", "https://a/x,https://REDACTED@b/x"),
        ("got 'http://me:pw@h:99/x?sig=ab'. Try", "got 'http://REDACTED@h:99/x?sig=REDACTED'. Try"),
        ("https://h/x?v=1&X-Amz-Signature=ab%2F&part=2", "https://h/x?v=1&X-Amz-Signature=REDACTED&part=2"),
        ("https://h/x?AWSAccessKeyId=ab#access_token=cd", "https://h/x?AWSAccessKeyId=REDACTED#access_token=REDACTED"),
        ("https://h/x?token=it's", "https://h/x?token=REDACTED"),
        ("exceeded with url: /x?token=abc (Caused by", "exceeded with url: /x?token=REDACTED (Caused by"),
        ("#0 : +hydra.job.env_set.WANDB_API_KEY=abc seed=1", "#0 : +hydra.job.env_set.WANDB_API_KEY=REDACTED seed=1"),
        ("+a.password='x y' seed=1", "+a.password=REDACTED seed=1"),
        ("HF_TOKEN=abc", "HF_TOKEN=REDACTED"),
        ("logger.tags=[hf_abcdefghijklmnopqrst]", "logger.tags=[REDACTED]"),
        ("model.name=wandb_v1_abcdefghijklmnopqrst", "model.name=REDACTED"),
    ],
)
def test_secrets_are_hidden_once(text: str, expected: str) -> None:
    assert redact(text) == expected == redact(expected)


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/x@y?v=1",
        "https://[::1]:80/x",
        "model.architecture.eos_token_id=0",
        "model.tokenizer=gpt2",
        "model.revision=0123456789abcdef0123456789abcdef01234567",
        "template.text='key={title} token={body}'",
        "hf_model_name",
        "me@example.com",
        "optimizer.lr=1e-3,trainer.max_epochs=2",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_a_tree_hides_the_values_of_secret_keys() -> None:
    tree = {
        "env_set": {"WANDB_API_KEY": "abc", "A": "b"},
        "urls": ["http://a:b@c"],
        "eos_token_id": 3,
        "tokenizer": "x",
    }
    shown = {"env_set": {"WANDB_API_KEY": REDACTED, "A": "b"}, "urls": [f"http://{REDACTED}@c"]}
    assert redact_tree(tree) == tree | shown


def test_log_records_hide_secrets_in_messages_and_tracebacks() -> None:
    factory = logging.getLogRecordFactory()
    try:
        redact_logs()
        record = logging.getLogger("x").makeRecord("x", 20, "f", 1, "from %s", ("http://a:pw@c",), None)
        try:
            raise ValueError("http://h/?token=abc")
        except ValueError as error:
            record.exc_info = (type(error), error, error.__traceback__)
        shown = logging.Formatter().format(record)
    finally:
        logging.setLogRecordFactory(factory)
    assert "http://REDACTED@c" in shown and "token=REDACTED" in shown and "pw" not in shown and "abc" not in shown
