"""Every file below conf/ composes and validates, and every fault is reported in the user's terms."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from llm_cls.config.compose import accept_plain_values, compose_tree, quoted, split_flags
from llm_cls.config.groups import CONF, GROUPS, choices
from llm_cls.config.overrides import explained
from llm_cls.config.schema import Config, keys, parse_config
from llm_cls.errors import ArtifactError, ConfigError
from llm_cls.runs.config_file import dump_config, read_config

accept_plain_values()
TOPS = f"Known: {', '.join(GROUPS)}, sweep, seed."
CHOICES = sorted(path for path in CONF.glob("*/*.yaml") if path.parent.name != "base")
NEEDED = {
    "data/table.yaml": ["data.file=x.csv", "data.text=t", "data.label=l"],
    "data/hub.yaml": ["data.dataset=a/b", "data.text=t", "data.label=l"],
    "model/hf.yaml": ["model.name=some/model"],
}


def parse(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return parse_config(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize("path", CHOICES, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_choice_composes_and_validates(path: Path) -> None:
    more = NEEDED.get(f"{path.parent.name}/{path.name}", [])
    assert isinstance(parse(f"{path.parent.name}={path.stem}", *more), Config)


def test_every_folder_is_a_group() -> None:
    assert {p.parent.name for p in CHOICES} == set(GROUPS)


def test_published_experiment_is_the_default() -> None:
    config = parse()
    assert (config.model.name, config.data.name) == ("rinna/japanese-gpt-neox-3.6b", "livedoor")
    lora, optimizer, data = config.lora, config.optimizer, config.data
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (32, 16, 0.1, None)
    assert (optimizer.lr, optimizer.weight_decay, optimizer.warmup_epochs) == (5e-4, 0.01, 1)
    assert (data.max_length, data.batch_size, data.split_seed, config.trainer.max_epochs) == (512, 32, 42, 10)


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "heads", "intermediate", "vocabulary", "bos", "eos"),
    [
        ("rinna-3.6b", 2816, 36, 22, 11264, 32000, 2, 3),
        ("rinna-3.6b-sft", 2816, 36, 22, 11264, 32000, 2, 3),
        ("rinna-3.6b-sft-v2", 2816, 36, 22, 11264, 32000, 2, 3),
        ("rinna-3.6b-ppo", 2816, 36, 22, 11264, 32000, 2, 3),
        ("open-calm-1b", 2048, 24, 16, 8192, 52096, 0, 0),
        ("open-calm-3b", 2560, 32, 32, 10240, 52096, 0, 0),
        ("open-calm-7b", 4096, 32, 32, 16384, 52224, 0, 0),
    ],
)
def test_published_architectures(name: str, hidden: int, layers: int, heads: int, intermediate: int,
                                 vocabulary: int, bos: int, eos: int) -> None:  # fmt: skip
    from llm_cls.model.decoder import load_architecture

    found = load_architecture(parse(f"model={name}", "model.weights=random").model)
    assert (found.hidden_size, found.num_hidden_layers, found.num_attention_heads) == (hidden, layers, heads)
    assert (found.intermediate_size, found.vocab_size, found.max_position_embeddings) == (
        intermediate,
        vocabulary,
        2048,
    )
    assert (found.bos_token_id, found.eos_token_id) == (bos, eos)
    assert not found.use_parallel_residual and not found.tie_word_embeddings and found.hidden_act == "gelu"
    assert found.rope_parameters["partial_rotary_factor"] == 1.0, "rotary over the whole head"


def test_templates() -> None:
    texts = [parse(f"template={i}").template.text for i in range(3)]
    assert texts == ["タイトル: {title}\n本文: {body}\nラベル: ", "タイトル: {title}\n本文: {body}", "{title}\n{body}"]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["template.text='text'"], ["template: text contains no column. Write {body} where the text belongs"]),
        (["template.text='{}'"], ["text has {}, which names no column"]),
        (["template.text='{body}{body}'"], ["2 times"]),
        (["template.text='{body} {author}'"], ["{author}"]),
        (["template.text='{body'"], ["template"]),
        (["data.micro_batch_size=64"], ["data.micro_batch_size must be <= data.batch_size (32), got 64"]),
        (["optimizer.warmup_epochs=11"], ["optimizer.warmup_epochs must be <= trainer.max_epochs (10), got 11"]),
        (["lora.full=true"], ["Try lora=full"]),
        (
            ["data=table", "data.file=a.csv", "data.train_file=b.csv", "data.text=t", "data.label=l"],
            ["exclude each other"],
        ),
        (["data=table", "data.val_file=b", "data.text=t", "data.label=l"], ["data.val_file needs data.train_file"]),
        (
            ["data=table", "data.file=a", "data.text=t", "data.label=l", "data.split=s", "data.folds=5"],
            ["data.folds and data.split exclude each other"],
        ),
        (
            ["data=table", "data.train_file=a", "data.test_file=b", "data.text=t", "data.label=l", "data.split=s"],
            ["data.split splits one file. Try data.file instead of data.train_file"],
        ),
        (["data=table", "data.file=a", "data.text=t", "data.label=t"], ["data.label=t is also read as text"]),
        (
            ["data=table", "data.file=a", "data.label=l", "template.text='{a} {l}'"],
            ["data.label=l is also read as text"],
        ),
        (["data=table", "data.file=a", "data.label=l", "template.text='{a} {body}'"], ["Try data.text=COLUMN"]),
        (["data=table", "data.file=a", "data.text=t", "data.label=l", "template.text='{a}'"], ["Remove data.text"]),
        (
            ["data=table", "data.file=a", "data.label=l", "template.text='{a} {b}'", "data.cut=c"],
            ["data.cut=c must be a column that template", "or longest. It has a, b"],
        ),
        (
            ["data=table", "data.file=a", "data.label=l", "template.text='{a} {b}'", "data.columns=[a]"],
            ["data.columns lacks 'b'", "Try data.columns=[a,b]"],
        ),
        (["data.cut=body", "data.truncation=end"], ["data.cut needs data.truncation=body"]),
        (
            ["data.cut=text"],
            ["data.cut=text must be a column that template '2' has once, or longest. It has title, body"],
        ),
        (["data=table", "data.file=a", "data.text=[p,p]", "data.label=l"], ["data.text must"]),
        (["data=table", "data.file=a.csv", "data.text=t", "data.body=b", "data.label=l"], ["data.text excludes"]),
        (["data=table", "data.file=a", "data.text=t", "data.label=l", "template=2"], ["Try template=text"]),
        (["data=table", "data.file=a", "data.title=t", "data.body=b", "data.label=l"], ["Try template=2"]),
        (["template.text='{body:5}'"], ["must not contain format specifications"]),
        (["template.text='{title!r} {body}'"], ["must not contain format specifications"]),
        (["trainer.devices=0"], ["trainer.devices must be a whole number >= 1, or auto, got 0"]),
        (["lora.target_modules=[1,2]"], ["must be a name, a list of names, or all-linear, got [1, 2]"]),
        (["lora.target_modules='('"], ["lora.target_modules=( is not a regular expression"]),
        (["lora.lora_alpha=1000000000000"], ["lora.lora_alpha must be <= 1000000"]),
        (["data.cache_dir="], ["data.cache_dir must not be empty, got ''. Try data.cache_dir=/scratch/llm_cls."]),
        (["data.cache_dir=null"], ["data.cache_dir must be a path, got null"]),
        (["seed=4294967296"], ["seed must be < 4294967296"]),
        (["model.name=''"], ["model.name must not be empty"]),
        (["data.folds=5", "data.fold=5"], ["data.fold must be < data.folds (5), got 5"]),
        (["data.fold=1"], ["Try data.folds=5"]),
        (["model.architecture.vocab_size=1" + "0" * 30], ["must not have numbers above 1000000000 (here vocab_size)"]),
        (["data.folds=2"], ["data.folds must be >= 3"]),
        (["sweep.name=../x"], ["sweep.name must be the name of a folder"]),
        (["sweep.isolate=true", "sweep.concurrent=2"], ["sweep.concurrent must be 1 with sweep.isolate=true"]),
        (["sweep.name=..", "seed=-1"], ["sweep.name must be", "seed must be >= 0"]),
        (["seed=true"], ["seed must be a number, got True"]),
        (["optimizer.lr=nan"], ["optimizer.lr must be"]),
        (["optimizer.lr=1e9999"], ["optimizer.lr must be a finite number, got inf"]),
        (["trainer.max_epochs=99999999999999999999"], ["trainer.max_epochs must be <= 1000000000, got 9999"]),
        (["lora.r=1000000001"], ["lora.r must be <= 1000000000, got 1000000001. Try lora=r32."]),
        (["data.cache_dir='a\0b'"], [r"data.cache_dir must not contain a NUL character, got 'a\x00b'"]),
        (
            ["data.cache_dir='\udcff'"],
            [r"data.cache_dir must be UTF-8, as it is everywhere with PYTHONUTF8=1, got '\udcff'"],
        ),
        (["seed=" + "9" * 4000], ["seed must be < 4294967296, got 999", "...99 (4000 characters). Try seed=1."]),
        (["optimizer.betas=[0.9,1]"], ["optimizer.betas must be two numbers >= 0 and < 1, got 1"]),
        (["optimizer.betas=[0.9]"], ["optimizer.betas must be two numbers >= 0 and < 1, got [0.9]"]),
        (["trainer.precision=fp8"], ["trainer.precision must be 'auto'"]),
    ],
)
def test_faults(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(*overrides)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            ["data=table", "data.file=name[1].csv", "data.text=t", "data.label=l"],
            ["data.file=name[1].csv could not be parsed. Quote the value for Hydra and the shell: "
             "\"data.file='name[1].csv'\""],
        ),
        (
            ["data=table", "data.file=it's.csv", "data.text=t"],
            ["data.file=it's.csv could not be parsed. Quote the value for Hydra and the shell: "
             "'data.file=\"it'\"'\"'s.csv\"'", "data.label is missing. Try data.label=COLUMN"],
        ),
        (["data=null"], [f"data=null is not a choice. Known: {', '.join(choices('data'))}."]),
        (["data.file=x.csv"],
         ["data.file has no effect with this choice of data. Choose another one, or write +data.file=..."]),
        (["nonsense"], ["nonsense is not of the form key=value"]),
        ([""], ["'' is not of the form key=value"]),
        (["種=1"], [f"種 is not a key. {TOPS}"]),
        (["=1"], [f"'' is not a key. {TOPS}"]),
        (["se ed=1"], ["'se ed' is not a key. Did you mean 'seed'?"]),
        (["~se ed"], ["'se ed' is not a key. Did you mean 'seed'?"]),
        (["fo\no=1"], [rf"'fo\no' is not a key. {TOPS}"]),
        (["seed=a\n\x1b(", "lora.r=0"], [
            r"seed=a\n\x1b( could not be parsed. Quote the value for Hydra and the shell: " '"'
            r"seed='a\n\x1b('" '"', "lora.r must be >= 1, got 0. Try lora=r32."]),
        (["hydra.run.dir=a("], ["hydra.run.dir=a( could not be parsed. Quote the value for Hydra and the shell: "
                                "\"hydra.run.dir='a('\""]),
        (["seed=" + "9" * 5000], [f"seed={'9' * 95}...99 (5005 characters) has a number of more than 4300 digits. "
                                 "Give a smaller one"]),
        (["data.text=本,文"], [
            "data.text=本,文 has several values. Add --multirun to try each, or write \"data.text=['本','文']\" for a "
            "list, or \"data.text='本,文'\" for one value with a comma"]),
        (["template=1,2"], ["template=1,2 has several values. Add --multirun to try each"]),
        # Of what follows, Hydra's own checks have no words: ValueError, AssertionError, KeyError.
        (["~template=-1"], ["Could not delete 'template=-1'. No match in the defaults list"]),
        (["~model=true"], ["Could not delete 'model=true'. No match in the defaults list"]),
        (["+=", "seed=x"], [f"'' is not a key. {TOPS}", "seed must be a whole number, got 'x'. Try seed=1."]),
        (["hydra=1"], ["Config group override must be a string or a list. Got int"]),
        (["hydra.job.env_copy=[no_such]"], ["Hydra cannot read this command line (KeyError: 'no_such')"]),
    ],
)  # fmt: skip
def test_what_hydra_refuses(overrides: list[str], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught, explained(overrides):
        parse_config(compose_tree(overrides))
    assert str(caught.value).splitlines() == lines


def test_a_choice_is_removed_if_it_is_the_one_that_is_named() -> None:
    assert "template" not in compose_tree(["~template=1", "template=1"])


def test_an_error_of_our_own_is_not_one_of_the_command_line() -> None:
    def fail() -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"), explained(["seed=1"]):
        fail()


@pytest.mark.parametrize(
    ("given", "flags", "overrides"),
    [
        ("model=x --cfg job data=y", ["--cfg=job"], ["model=x", "data=y"]),
        ("a=1 -p data b=2 -c job c=3 --resolve", ["--cfg=job", "--resolve", "--package=data"], ["a=1", "b=2", "c=3"]),
        ("a=1 -m b=1,2", ["--multirun"], ["a=1", "b=1,2"]),
        ("a=1 -i b=2", ["--info=all"], ["a=1", "b=2"]),
        ("--info ~lora", ["--info=all"], ["~lora"]),
        ("a=1 --info plugins b=2", ["--info=plugins"], ["a=1", "b=2"]),
        ("a=1 -i", ["--info=all"], ["a=1"]),
        ("a=1 -cd runs/lr=1 b=2", ["--config-dir=runs/lr=1"], ["a=1", "b=2"]),
        ("a=1 --config-name=x b=2 -cp y c=3", ["--config-path=y", "--config-name=x"], ["a=1", "b=2", "c=3"]),
        ("-sc query=bash", ["--shell-completion"], ["query=bash"]),
        ("a=1 --help b=2", ["--help"], ["a=1", "b=2"]),
        ("", [], []),
    ],
)
def test_flags_stand_anywhere(given: str, flags: list[str], overrides: list[str]) -> None:
    assert split_flags(given.split()) == (flags, overrides)
    assert split_flags([*flags, *overrides]) == (flags, overrides)


@pytest.mark.parametrize(
    ("given", "part"), [("a=1 --mutlirun", "unrecognized arguments: --mutlirun. Try"), ("--cfg a=1", "--cfg/-c: ")]
)
def test_flags_that_hydra_has_not(given: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_flags(given.split())
    assert part in str(caught.value) and "--hydra-help" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["本文", "é t", "a/b/記事.csv"])
def test_letters_of_any_alphabet_need_no_quotes(value: str) -> None:
    assert str(parse("data=table", "data.file=a.csv", f"data.text={value}", "data.label=l").data.text) == value


@pytest.mark.parametrize("value", ["a", "it's", "\\", "a\\'b", "a\\b\\", 'x"', "a,b=[c]"])
def test_quoted_is_read_back(value: str) -> None:
    assert parse("data=table", "data.file=a", f"data.text={quoted(value)}", "data.label=l").data.text == value


def test_every_key_of_the_main_choices_can_be_given() -> None:
    """Hydra knows only keys that are in the files."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("config", overrides=["data=table", "model=hf", "logger=wandb", "pruner=median"])
        hub = compose("config", overrides=["data=hub"])
    livedoor = {"data.url", "data.archive", "data.download_timeout_seconds", "data.download_stall_seconds"}
    elsewhere = livedoor | {
        "pruner.min_epochs",
        "pruner.reduction_factor",
        "pruner.alpha",
        "loss.gamma",
    }  # of other choices
    composed = {f"{group}.{key}" for group in (*GROUPS[:-1], "sweep") for key in tree[group]}
    composed |= {f"data.{key}" for key in hub.data}
    assert {key for key in keys() if "." in key} - elsewhere - composed == set()


def test_an_architecture_is_given_as_a_whole_or_by_key() -> None:
    shape = parse("model=hf", "model.name=x", "model.architecture={model_type: llama}", "model.architecture.head_dim=8")
    assert shape.model.architecture == {"model_type": "llama", "head_dim": 8}


def test_round_trip_through_yaml(tmp_path: Path) -> None:
    config = parse("experiment=quickstart", "lora.target_modules=[dense,query_key_value]", "logger=wandb")
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "is missing. Restore it"),
        (b"", "is damaged: it must hold keys and values"),
        (b"a: [1", "is damaged: while parsing a flow sequence"),
        (b"- 1\n", "is damaged: it must hold keys and values"),
        (b"text\n", "is damaged: "),
        (b"\xff\xfe\x00", "is damaged: "),
        (b"[" * 10_000, "is damaged: "),
        (b"a: ${b}\n", "is damaged: "),
        (b"a: [0x" + b"f" * 5000 + b"]\n", "is damaged: the number 0xfff"),
        (b"seed: 99999999999999999999\n", "is damaged: the number 99999999999999999999 is too large. Restore it"),
        (b"a: !!python/object/apply:os.system [true]\n", "is damaged: "),
    ],
)
def test_a_damaged_configuration_file_is_one_line(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path} ") and part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_and_mappings_of_columns_and_labels() -> None:
    data = parse(
        "data=table", "data.file=a.csv", "data.text=[premise,hypothesis]", "data.label=l", "data.label_order=[b,a,2]",
        "data.label_names={-1:a,1:b}", "data.cut=premise",
    ).data  # fmt: skip
    assert (data.text, data.label_order, data.cut) == (["premise", "hypothesis"], ["b", "a", "2"], "premise")
    assert data.label_names == {"-1": "a", "1": "b"} and data.columns is None
    assert (
        parse("data=table", "data.file=a", "data.text=[t]", "data.label=l", "data.label_names=[n,p]").data.text == "t"
    )
    pair = parse("data=table", "data.file=a", "data.label=l", "template.text='{b} {a} {b}'").data
    assert pair.columns == ["b", "a"], "those of the template, which the record of the run then names"
    assert Config.model_validate(parse("template.text='{title}'").model_dump()).data.columns is None


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    """Adding a file is all it takes."""
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "question.yaml").write_text('name: question\ntext: "{body}？"\n', encoding="utf-8")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree: Any = compose("config", overrides=["template=question", f"hydra.searchpath=[file://{tmp_path}]"])
    assert parse_config(OmegaConf.create(tree)).template.text == "{body}？"


def test_an_unknown_corpus_is_a_fault_among_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(compose_tree(["data.name=livedor", "lora.r=0"]))
    assert str(caught.value).splitlines() == [
        "lora.r must be >= 1, got 0. Try lora=r32.",
        "data.name=livedor is not a corpus. Did you mean 'livedoor'?",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+foo=1", "foo is not a key. Known: model, template, data, lora, optimizer, loss, engine, trainer, logger, "),
        ("+sweep.zzz.y=1", "sweep.zzz is not a key. Did you mean 'sweep."),
        ("~model", "model is missing. Try model=..."),
        ("~lora.r", None),
    ],
)
def test_what_the_schema_refuses(override: str, line: str | None) -> None:
    """One short line, or what is removed has its default."""
    if line is None:
        assert parse(override).lora.r == 32
        return
    with pytest.raises(ConfigError) as caught:
        parse(override)
    assert str(caught.value).startswith(line) and len(str(caught.value)) < 150


@pytest.mark.parametrize("suggested", ["data.text=['本','文']", "data.text='本,文'"])
def test_suggestions_can_be_parsed(suggested: str) -> None:
    assert compose_tree(["data=table", suggested]).data.text in (["本", "文"], "本,文")


@pytest.mark.parametrize("override", ["template=[1,2]", "lora={r:4}"])
def test_a_group_takes_one_choice(override: str) -> None:
    with pytest.raises(ConfigError, match="must name one choice"):
        compose_tree([override])


@pytest.mark.parametrize(
    ("typed", "weights"),
    [
        ("balanced", "balanced"),
        ("null", None),
        ("{peachy:2,smax:0.5}", {"peachy": 2.0, "smax": 0.5}),
        ("{1: 2, no: 1, True: 3, a:b: 4, 映画: 1e-1}", {"1": 2.0, "no": 1.0, "True": 3.0, "a:b": 4.0, "映画": 0.1}),
        ("'{\"a, b\": 2}'", {"a, b": 2.0}),
        ("'{映画: 2}'", {"映画": 2.0}),
    ],
)
def test_labels_of_class_weights_are_text_as_typed(typed: str, weights: object, tmp_path: Path) -> None:
    config = parse(f"loss.class_weights={typed}")
    assert config.loss.class_weights == weights
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    "typed", ["{}", "{a: 0}", "{a: -1}", "{a: inf}", "{a: nan}", "{a: x}", "{a}", "{a: 1,,b: 2}", "3"]
)
def test_class_weights_that_are_refused_in_one_line(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"loss.class_weights={typed}")
    line = str(caught.value)
    assert line.startswith("loss.class_weights must be balanced, a mapping of labels to numbers > 0, or null, got ")
    assert "\n" not in line and "Try loss.class_weights=balanced" in line


@pytest.mark.parametrize(("wrong", "shown"), [("-1", "'-1'"), ("many", "'many'"), ("0", "'0'")])
def test_the_wrong_weight_of_many_is_named(wrong: str, shown: str) -> None:
    with pytest.raises(ConfigError, match=rf"or null, got {shown} for '映画'\. Try loss"):
        parse(f"loss.class_weights={{a:1,映画:{wrong},b:2}}")


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("[否定,肯定]", {"0": "否定", "1": "肯定"}),
        ("[007,1e3,true]", {"0": "007", "1": "1e3", "2": "true"}),
        ("{true:yes,false:no}", {"true": "yes", "false": "no"}),
        ("{いいえ: 1.10, -1:a:b}", {"いいえ": "1.10", "-1": "a:b"}),
        ("'{0:\"a, b\"}'", {"0": "a, b"}),
        ("{0:'a, b'}", {"0": "a, b"}),
    ],
)
def test_names_of_labels_are_text_as_typed(typed: str, names: object, tmp_path: Path) -> None:
    """So that they are the strings of the file, which may be ``true`` or ``1e3``."""
    config = parse("data=table", "data.file=a.csv", "data.text=[前提,b]", "data.label=l", f"data.label_names={typed}")
    assert config.data.label_names == names and config.data.text == ["前提", "b"]
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config
    if typed.startswith("["):
        ordered = parse("data=table", "data.file=a.csv", "data.text=t", "data.label=l", f"data.label_order={typed}")
        assert isinstance(names, dict) and ordered.data.label_order == list(names.values())


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("{a:b,c:,d:e}", "'' for 'c'"),
        ("{a:b,c,d:e}", "'' for 'c'"),
        ("[a,[b],c]", r"\['b'\] for '1'"),
        ("{}", "{}"),
        ("3", "3"),
    ],
)
def test_the_wrong_one_of_many_names_is_named(typed: str, found: str) -> None:
    line = rf"^data\.label_names must be a list of names, or a mapping of values to names, got {found}\. Try data\.la"
    with pytest.raises(ConfigError, match=line):
        parse("data=table", "data.file=a.csv", "data.text=t", "data.label=l", f"data.label_names={typed}")


def test_a_limit_below_the_batch_is_told_with_the_other_faults() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("data=table", "data.limit=10", "data.fold=3", "data.text=text", "lora.r=0")
    assert str(caught.value).splitlines() == [
        "data.fold=3 needs data.folds. Try data.folds=5",
        "data.limit must be >= data.batch_size (32), got 10. Try data.limit=32",
        "data.file is missing. Try data.file=texts.csv",
        "data.label is missing. Try data.label=COLUMN",
        "lora.r must be >= 1, got 0. Try lora=r32.",
    ]


def test_focal_loss_has_no_smoothing() -> None:
    assert parse("loss=focal", "loss.gamma=3").loss.gamma == 3
    with pytest.raises(
        ConfigError, match=r"^loss.label_smoothing must be 0 with loss=focal, .* got 0.1. Try loss=cross"
    ):
        parse("loss=focal", "+loss.label_smoothing=0.1")
