"""The help and the documentation say of every key what it means, and what they say is true."""

from pathlib import Path

import pytest

from llm_cls.config.arguments import nested
from llm_cls.config.compose import accept_plain_values, compose_tree
from llm_cls.config.fields import extra, fields
from llm_cls.config.groups import CONF, GROUPS, choices, default_choices
from llm_cls.config.help import command_help, train_help
from llm_cls.config.messages import validate
from llm_cls.config.overrides import explain
from llm_cls.config.reference import COMMANDS, reference
from llm_cls.config.schema import Config, keys, parse_config
from llm_cls.errors import ConfigError

from .different_values import changed, different_value

accept_plain_values()
ALL = [("train", Config), *COMMANDS.items()]


@pytest.fixture(scope="module")
def default() -> Config:
    return parse_config(compose_tree([]))


@pytest.mark.parametrize(("name", "schema"), ALL)
def test_every_key_is_explained(name: str, schema: type[Config]) -> None:
    shown, documented = train_help() if name == "train" else command_help(schema, name), reference()
    for key, field in fields(schema).items():
        assert field.description and field.description.endswith(".") and field.examples, key
        assert f"\n  {key}  (" in shown and f"| `{key}` |" in documented
        assert all(example in shown for example in field.examples)


@pytest.mark.parametrize(("name", "schema"), list(COMMANDS.items()))
def test_examples_of_the_commands_are_valid(name: str, schema: type[Config]) -> None:
    validate(schema, nested(dict(field.examples[0].split("=", 1) for field in fields(schema).values())))


def test_examples_of_training_are_valid() -> None:
    """Each changes its key, or the group that sets it. One of every key is composed at a time."""
    lines: list[dict[str, str]] = []
    for key, field in fields(Config).items():
        for example in field.examples or ():
            name, _, value = example.strip("'").partition("=")
            group = key.partition(".")[0]
            if name in GROUPS:
                assert name == group and value in choices(group)
            elif group not in ("data", "loss", "pruner"):  # whose choices do not have all keys
                line = next((line for line in lines if name not in line), {})
                lines += [] if line else [line]
                line[name] = example.strip("'")
            assert name in (key, group) or name.startswith("model.architecture."), example
    assert lines
    for line in lines:
        compose_tree(list(line.values()))


def test_defaults_are_those_of_conf(default: Config) -> None:
    """What a run without overrides gets is what the help says, except where the choices of model and data decide."""
    values = default.model_dump()
    for key, field in fields(Config).items():
        section, _, name = key.rpartition(".")
        if section in ("model", "template") or key == "data.url" or extra(field, "default") or field.is_required():
            continue
        assert (values[section] if section else values)[name] == field.get_default(call_default_factory=True), key


def test_groups_and_their_defaults_are_shown() -> None:
    shown = train_help()
    for group in GROUPS:
        assert f"  {group}: {', '.join(choices(group))}\n" in shown
    assert default_choices()["model"] == "rinna-3.6b" and "Default: rinna-3.6b." in shown
    launchers = {path.stem for path in (CONF / "hydra" / "launcher").iterdir()} | {"basic"}  # which is Hydra's own
    assert f"  hydra/launcher: {', '.join(sorted(launchers))}\n" in shown


def test_the_documentation_is_up_to_date() -> None:
    path = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
    assert path.read_text(encoding="utf-8") == reference(), (
        "Run: python -m llm_cls.config.reference > docs/configuration.md"
    )


@pytest.mark.parametrize("key", keys())
def test_every_key_can_be_changed(key: str, default: Config) -> None:
    values = different_value(key, default)
    section, _, name = key.rpartition(".")
    old, new = default, changed(default, values)
    if section:
        old, new = getattr(old, section), getattr(new, section)
    assert key in values and getattr(old, name) != getattr(new, name)


def test_ja_mini_brings_its_settings_and_the_command_line_wins() -> None:
    def settings(*overrides: str) -> tuple[float, object, int]:
        config = parse_config(compose_tree(overrides))
        return config.optimizer.lr, config.lora.target_modules, config.lora.r

    assert settings("model=ja-mini") == (2e-3, "all-linear", 32)
    assert settings("model=ja-mini", "lora=r8") == (2e-3, "all-linear", 8)
    assert settings("model=ja-mini", "optimizer.lr=1e-4", "lora.target_modules=null") == (1e-4, None, 32)
    assert settings("model=ja-mini", "optimizer=full")[0] == 2e-5
    assert settings("model=open-calm-1b") == (5e-4, None, 32)
    assert settings("experiment=quickstart") == (2e-3, "all-linear", 32)


def test_all_faults_of_a_sweep() -> None:
    error = explain(ValueError("what Hydra says"), ["template=1,9", "modle=x", "seed=1,2"], multirun=True)
    assert str(error).splitlines() == [
        "template=9 is not a choice. Known: 0, 1, 2, text.",
        "modle is not a key. Did you mean 'model'?",
    ]


def test_a_fault_that_is_not_in_the_overrides_is_shown_as_hydra_says_it() -> None:
    assert str(explain(ValueError("what Hydra says"), ["seed=1"])) == "what Hydra says"


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("report", {"dir": ""}, "dir must not be empty, got ''. Try dir=outputs/sweeps/NAME."),
        ("benchmark", {"steps": "0"}, "steps must be >= 1, got '0'. Try steps=50."),
        ("status", {}, "dir is missing. Try dir=outputs/sweeps/NAME"),
        ("predict", {"run": "r", "input": "i", "output": "o.xlsx"}, "output must end with .csv, .tsv, .jsonl or"),
        ("evaluate", {"run": "r"}, "data is missing. Try data.file=new.csv"),
        ("evaluate", {"run": "r", "data": {"label": "l"}}, "data.file is missing. Try data.file=new.csv"),
        (
            "evaluate",
            {"run": "r", "data": {"file": "f", "lable": "l"}},
            "data.lable is not a key. Did you mean",
        ),
        ("predict", {"run": "r", "input": "-", "output": "-"}, "format is missing. Standard input needs one: format="),
        ("predict", {"run": "r", "input": "i", "output": "o.csv", "format": "tsv"}, "format is for input=- and output"),
    ],
)
def test_faults_of_arguments(name: str, values: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(COMMANDS[name], values)
    assert str(caught.value).startswith(line)
