"""The configuration of a run: typed, checked as a whole, every fault reported with its fix.

Hydra composes ``conf/`` and the command line into one tree; ``parse_config`` turns that tree into the
frozen classes below, which are all that the rest of the package sees.
"""

import difflib
import re
import string
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from typing_extensions import Self
from yaml import YAMLError

from llm_cls.errors import ArtifactError, ConfigError, first_line

T = TypeVar("T", bound=BaseModel)


def _plain_int(value: Any) -> Any:
    """Refuses true and false where a number is wanted: bool is an int in Python."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _as_text(value: Any) -> Any:
    """``template=2`` and ``data.label=1`` arrive as numbers, but are names."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


PositiveInt = Annotated[int, BeforeValidator(_plain_int), Field(ge=1)]
NonNegativeInt = Annotated[int, BeforeValidator(_plain_int), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_plain_int), Field(ge=0, lt=2**32)]
Name = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused and values don't change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which pretrained network is tuned.

    Attributes:
        name: Hugging Face id, local folder, or "ja-mini" for the decoder shipped with the package.
        revision: Branch, tag or commit on the hub; null is the newest.
        weights: "pretrained", or "random" to build ``architecture`` without a download.
        architecture: ``transformers`` configuration for random weights; empty: read from ``name``.
        tokenizer: Id, folder or ``.model`` file, where it isn't that of ``name``.
        tokenizer_kind: "sentencepiece" encodes with the SentencePiece model file itself.
        pooling: "last" takes each text's last token (decoders), "first" its first (encoders).
        add_bos: Whether texts start with the BOS token; null follows the tokenizer's own habit.
        trust_remote_code: Whether code from the model's repository may run.
    """

    name: Name
    revision: Name | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    architecture: dict[str, Any] = Field(default_factory=dict)
    tokenizer: Name | None = None
    tokenizer_kind: Literal["auto", "sentencepiece"] = "auto"
    pooling: Literal["last", "first"] = "last"
    add_bos: bool | None = None
    trust_remote_code: bool = False


class TemplateConfig(Section):
    """How a text is put into one string: ``text`` with ``{title}`` and, exactly once, ``{body}``."""

    name: Name
    text: str

    @model_validator(mode="after")
    def _fields_are_known(self) -> Self:
        try:
            parsed = [part for part in string.Formatter().parse(self.text) if part[1] is not None]
        except ValueError as error:
            raise ValueError(f"text is not a template: {error}") from None
        fields = [str(field) for _, field, _, _ in parsed]
        if any(form or conversion for _, _, form, conversion in parsed):
            raise ValueError("text takes no formats. Write {title} and {body} without ':' and '!'")
        if unknown := sorted(set(fields) - {"title", "body"}):
            raise ValueError(f"text knows {{title}} and {{body}} only, got {{{unknown[0]}}}")
        if fields.count("body") != 1:
            raise ValueError(f"text must contain {{body}} exactly once, got {fields.count('body')} times")
        return self

    @property
    def uses_title(self) -> bool:
        """Whether ``{title}`` occurs."""
        return any(field == "title" for _, field, _, _ in string.Formatter().parse(self.text))


class DataConfig(Section):
    """Which texts, how they are split, cut and grouped into steps.

    Attributes:
        name: "livedoor", "sample" or "table".
        cache_dir: Folder for the downloaded archive and the token cache.
        url: Address of the livedoor archive.
        archive: Local copy of the livedoor archive instead of the download.
        file: One table to split; or ``train_file``, ``val_file`` and ``test_file``.
        text: Name of the text column; or ``title`` and ``body`` columns instead.
        label: Name of the label column.
        id: Name of an id column; null numbers the rows.
        split_seed: Seed of the train/val/test split.
        folds: Number of folds of a cross-validation instead of the 8:1:1 split; null: no folds.
        fold: Which of them is the test split; the next one is val.
        limit: Only the first n texts of each split, for trials; null takes all.
        max_length: Tokens per text at most, EOS included.
        truncation: "body" cuts the body and keeps the template's tail and the EOS; "end" cuts the
            finished sequence, as the published experiment did.
        batch_size: Texts per optimizer step over all devices.
        micro_batch_size: Texts per forward and backward pass on one device; null: as many as the step
            gives a device. Affects memory and speed, not what is learnt.
        eval_batch_size: Texts per evaluation batch on one device; null: twice the micro batch, at least 32.
    """

    name: Literal["livedoor", "sample", "table"]
    cache_dir: Path
    url: str | None = None
    archive: Path | None = None
    file: Path | None = None
    train_file: Path | None = None
    val_file: Path | None = None
    test_file: Path | None = None
    text: Name | None = None
    title: Name | None = None
    body: Name | None = None
    label: Name | None = None
    id: Name | None = None
    split_seed: Seed = 42
    folds: Annotated[int, BeforeValidator(_plain_int), Field(ge=3, examples=["data.folds=5"])] | None = None
    fold: NonNegativeInt = 0
    limit: PositiveInt | None = None
    max_length: Annotated[int, BeforeValidator(_plain_int), Field(ge=2)] = 512
    truncation: Literal["body", "end"] = "body"
    batch_size: PositiveInt = 32
    micro_batch_size: PositiveInt | None = None
    eval_batch_size: PositiveInt | None = None

    @model_validator(mode="after")
    def _fold_exists(self) -> Self:
        if self.fold and self.folds is None:
            raise ValueError(f"data.fold={self.fold} needs data.folds. Try data.folds=5")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(
                f"data.fold must be < data.folds ({self.folds}), got {self.fold}. The first is data.fold=0"
            )
        if self.folds is not None and self.train_file is not None:
            raise ValueError("data.folds splits one file. Try data.file instead of data.train_file")
        return self

    @model_validator(mode="after")
    def _table_is_described(self) -> Self:
        if self.name != "table":
            return self
        faults = []
        separate = [self.train_file, self.val_file, self.test_file]
        if self.file is None and not any(separate):
            faults.append("data.file is missing. Try data.file=texts.csv")
        elif self.file is not None and any(separate):
            faults.append("data.file and data.train_file exclude each other. Give one of them")
        elif self.file is None and not all(separate):
            faults.append("data.train_file, data.val_file and data.test_file go together. Give all three, or data.file")
        if self.text is None and self.body is None:
            faults.append("data.text is missing. Try data.text=COLUMN, or data.title=COLUMN data.body=COLUMN")
        elif self.text is not None and (self.body is not None or self.title is not None):
            faults.append("data.text excludes data.title and data.body. Give one or the other")
        if self.label is None:
            faults.append("data.label is missing. Try data.label=COLUMN")
        if faults:
            raise ValueError("\n".join(faults))
        return self


class LoraConfig(Section):
    """What of the network is trained besides the head; the names are PEFT's.

    Attributes:
        enabled: Whether a LoRA adapter is added.
        full: Without an adapter: train the whole network (true) or the head alone (false).
        r, lora_alpha, lora_dropout, use_rslora, use_dora: See ``peft.LoraConfig``.
        target_modules: Names, "all-linear", or null for PEFT's default of the architecture.
    """

    enabled: bool = True
    full: bool = False
    r: PositiveInt = Field(32, examples=["lora=r32"])
    lora_alpha: PositiveInt = Field(16, le=1_000_000, examples=["lora.lora_alpha=16"])
    lora_dropout: float = Field(0.1, ge=0, lt=1, examples=["lora.lora_dropout=0.1"])
    target_modules: str | list[str] | None = Field(None, description="must be a name, a list of names, or all-linear")
    use_rslora: bool = False
    use_dora: bool = False

    @model_validator(mode="after")
    def _pattern_is_one(self) -> Self:
        if isinstance(self.target_modules, str):  # which PEFT takes for a regular expression
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"lora.target_modules={self.target_modules} is no regular expression: {error}. Try all-linear"
                ) from None
        return self

    @model_validator(mode="after")
    def _full_needs_no_adapter(self) -> Self:
        if self.full and self.enabled:
            raise ValueError(
                "lora.full=true trains the whole network and takes no adapter. Try lora=none lora.full=true"
            )
        return self


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to 0 at the end of the last epoch.

    Attributes:
        lr: Peak learning rate.
        weight_decay: On matrices only: biases, norm weights and DoRA magnitudes have none.
        betas, eps: Of AdamW.
        warmup_epochs: Length of the warm-up.
        max_grad_norm: Clips the norm of all gradients together; null doesn't clip.
    """

    lr: float = Field(5e-4, gt=0, examples=["optimizer.lr=5e-4"])
    weight_decay: float = Field(0.01, ge=0, examples=["optimizer.weight_decay=0.01"])
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999), description="must be two numbers >= 0 and < 1"
    )
    eps: float = Field(1e-8, gt=0)
    warmup_epochs: float = Field(1.0, ge=0, examples=["optimizer.warmup_epochs=1"])
    max_grad_norm: float | None = Field(None, gt=0, examples=["optimizer.max_grad_norm=1"])


class EngineConfig(Section):
    """How the arithmetic of a step is carried out.

    Attributes:
        name: Name of the engine.
        gradient_checkpointing: Recompute activations in the backward pass: slower, less memory. null: with
            "reference" on GPUs; with the others, as many layers as memory wants.
        compile: Whether layers that have no fused form are compiled ("fast" and "fp8"); null: on GPUs.
    """

    name: Literal["fast", "fp8", "reference"] = "fast"
    compile: bool | None = None
    gradient_checkpointing: bool | None = None


class TrainerConfig(Section):
    """Where and how long training runs.

    Attributes:
        accelerator: "cpu", "gpu", or "auto" for a GPU where there is one.
        devices: Processes per machine, each with one device; "auto": all GPUs.
        num_nodes: Number of machines.
        precision: Lightning's names; "auto": bf16 on GPUs that have it, 16-bit on others, float32 on CPUs.
        max_epochs: Epochs at most.
        early_stopping_patience: Stop after so many epochs without a better val F1; null never does.
        progress_bar: Whether a progress bar is shown.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt | Literal["auto"] = Field(1, description="must be a whole number >= 1, or auto")
    num_nodes: PositiveInt = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    max_epochs: PositiveInt = Field(10, examples=["trainer.max_epochs=10"])
    early_stopping_patience: PositiveInt | None = None
    progress_bar: bool = True


class LoggerConfig(Section):
    """Where curves and tables go besides the run directory.

    Attributes:
        name: "wandb" or "none".
        mode: "online", "offline", or "auto": online where an API key is configured.
        project, entity, group, tags: See W&B.
    """

    name: Literal["wandb", "none"] = "wandb"
    mode: Literal["auto", "online", "offline"] = "auto"
    project: Name = "llm_cls"
    entity: Name | None = None
    group: Name | None = None
    tags: list[str] = Field(default_factory=list)


class SweepConfig(Section):
    """How the runs of a ``--multirun`` belong together; nothing of it changes a result.

    Attributes:
        name: Folder below ``outputs/sweeps``; the same name goes on with the same sweep.
        isolate: Every run in a process of its own, instead of one process that shares the decoder.
        retries: How often a run that failed is tried again before the sweep ends.
    """

    name: Name = "sweep"
    isolate: bool = False
    retries: NonNegativeInt = 1

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> Self:
        if not re.fullmatch(r"(?!\.)[^/\\\x00-\x1f]{1,120}", self.name):
            raise ValueError(f"sweep.name must be the name of a folder, without slashes, got {self.name!r}")
        return self


class PrunerConfig(Section):
    """Which runs of a sweep end early.

    Attributes:
        name: "median" and "hyperband" are Optuna's rules, by val F1 per epoch; "none" ends no run early.
        stop_collapsed: Whether a run ends after the first epoch that shows that it has collapsed or diverged.
        max_lag: How far a run's best val F1 may lie behind that of the best run after as many epochs, as a share
            of the latter. From the second epoch on; it shrinks with the square of what is left of the training, but
            not below two standard errors; null: no such rule.
        startup_runs: Runs that must have ended before "median" ends others.
        warmup_fraction: Share of ``trainer.max_epochs`` during which "median" ends no run.
        min_epochs, reduction_factor: Of "hyperband": see ``optuna.pruners.HyperbandPruner``.
    """

    name: Literal["none", "median", "hyperband"] = "none"
    stop_collapsed: bool = False
    max_lag: float | None = Field(None, gt=0, le=1, examples=["pruner.max_lag=0.25"])
    startup_runs: PositiveInt = 4
    warmup_fraction: float = Field(0.8, ge=0, le=1)
    min_epochs: PositiveInt = 1
    reduction_factor: Annotated[int, BeforeValidator(_plain_int), Field(ge=2)] = 3


class Config(Section):
    """Everything that a run is made of."""

    model: ModelConfig
    template: TemplateConfig
    data: DataConfig
    lora: LoraConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    trainer: TrainerConfig
    logger: LoggerConfig
    sweep: SweepConfig = SweepConfig()
    pruner: PrunerConfig = PrunerConfig()
    seed: Seed = 42

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        faults = []
        if self.data.name == "table":
            if self.template.uses_title and self.data.title is None:
                faults.append(
                    f"template {self.template.name!r} has {{title}}, but data.title names no column. "
                    "Try template=text, or data.title=COLUMN data.body=COLUMN"
                )
            if self.data.title is not None and not self.template.uses_title:
                faults.append(
                    f"data.title is set, but template {self.template.name!r} has no {{title}}. Try template=2"
                )
        if self.data.micro_batch_size is not None and self.data.micro_batch_size > self.data.batch_size:
            faults.append(
                f"data.micro_batch_size must be <= data.batch_size ({self.data.batch_size}), "
                f"got {self.data.micro_batch_size}. Try data.micro_batch_size={self.data.batch_size}"
            )
        if self.optimizer.warmup_epochs > self.trainer.max_epochs:
            faults.append(
                f"optimizer.warmup_epochs must be <= trainer.max_epochs ({self.trainer.max_epochs}), "
                f"got {self.optimizer.warmup_epochs:g}. Try optimizer.warmup_epochs=0"
            )
        if self.model.pooling == "first" and self.lora.enabled and self.lora.target_modules is None:
            faults.append(
                "lora.target_modules has no default for an encoder. "
                "Try lora=none lora.full=true, or lora.target_modules=all-linear"
            )
        if faults:
            raise ValueError("\n".join(faults))
        return self


def parse_config(tree: DictConfig) -> Config:
    """The typed configuration in a composed tree.

    Raises:
        ConfigError: With one line for every fault.
    """
    try:
        values = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} is missing. Try {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None
    assert isinstance(values, dict)
    values.pop("experiment", None)
    return validate(Config, values)


def read_config(path: Path) -> Config:
    """The configuration that a run wrote to its ``config.yaml``.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    try:
        tree = OmegaConf.load(path)
        if not isinstance(tree, DictConfig):
            raise ValueError("it must hold keys and values")
        return parse_config(tree)
    except FileNotFoundError:
        fault = "missing"
    except ConfigError as error:
        fault = f"damaged: {first_line(error)}"
    except (OSError, ValueError, RecursionError, YAMLError, OmegaConfBaseException) as error:
        fault = f"damaged: {' '.join(str(error).split())}"
    raise ArtifactError(f"{path} is {fault}. Restore it or train the run again")


def dump_config(config: Config) -> str:
    """The full configuration as YAML, as ``read_config`` reads it."""
    return OmegaConf.to_yaml(config.model_dump(mode="json"))


def validate(schema: type[T], values: Any) -> T:
    """``values`` as an instance of ``schema``.

    Raises:
        ConfigError: With one line for every fault: key, value, fix.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for fault in error.errors(include_url=False):
            for line in _describe(schema, fault):
                lines.setdefault(line.split()[0], line)  # where a key may be of several types, each of them objects
        raise ConfigError("\n".join(lines.values())) from None


def nearest(name: str, known: list[str]) -> str:
    """The question "Did you mean 'x'?" for the known name nearest to ``name``, or the list of all."""
    if match := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"Did you mean {match[0]!r}?"
    return f"Known: {', '.join(known)}."


def known_keys(schema: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """All keys of ``schema``, dotted."""
    keys = []
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _describe(schema: type[BaseModel], fault: ErrorDetails) -> list[str]:
    """One fault of pydantic as the lines that the user reads."""
    location = [str(part) for part in fault["loc"]]
    field, section = None, schema
    path: list[str] = []
    for part in location:
        if part not in section.model_fields:
            break  # the rest names an element or a branch of a union
        path.append(part)
        field = section.model_fields[part]
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        section = field.annotation
    kind, context, value = fault["type"], fault.get("ctx", {}), fault["input"]
    if kind == "extra_forbidden":
        key = ".".join(location)
        return [f"{key} is not a key. {nearest(key, known_keys(schema))}"]
    key = ".".join(path)
    if kind == "missing" and len(path) == len(location):
        return [f"{key} is missing. Try {key}=..."]
    if (kind == "value_error" and field is None) or (section is not schema and field and field.annotation is section):
        # raised by a section's own validator: its message names keys and fixes
        message = str(context.get("error", fault["msg"]))
        return [line if "." in line.split()[0] or not key else f"{key}: {line}" for line in message.splitlines()]
    hint = f" Try {field.examples[0]}." if field is not None and field.examples else ""
    rules = {
        "greater_than_equal": ("ge", "must be >= {}"),
        "greater_than": ("gt", "must be > {}"),
        "less_than_equal": ("le", "must be <= {}"),
        "less_than": ("lt", "must be < {}"),
        "literal_error": ("expected", "must be {}"),
    }
    if field is not None and field.description:  # of what the types alone say badly
        wanted = field.description
    elif kind in rules:
        name, rule = rules[kind]
        wanted = rule.format(context[name])
    elif kind.startswith("int"):
        wanted = "must be a whole number"
    elif kind.startswith("float") or kind == "finite_number":
        wanted = "must be a number"
    elif kind.startswith("bool"):
        wanted = "must be true or false"
    elif kind == "path_type":
        wanted = "must be a path"
    elif kind in ("string_too_short", "too_short"):
        wanted = "must not be empty"
    else:
        wanted = "must be " + fault["msg"].removeprefix("Input should be ").removeprefix("Value error, must be ")
    shown = "null" if value is None else repr(value) if isinstance(value, str) else str(value)
    return [f"{key} {wanted}, got {shown}.{hint}"]
