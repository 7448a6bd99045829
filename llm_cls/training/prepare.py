"""Everything about a run that can be checked before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from llm_cls.config.schema import Config
from llm_cls.data.corpus import Corpus
from llm_cls.data.tokenizer import Tokenizer
from llm_cls.data.weights import class_weights
from llm_cls.errors import ConfigError
from llm_cls.metrics.scores import Floats
from llm_cls.model.decoder import max_positions
from llm_cls.runs.identity import Facts, TokenizerFacts, identity
from llm_cls.runs.record import new_record
from llm_cls.runs.schema import DataRecord, ModelRecord, RunRecord
from llm_cls.training.devices import Hardware, check_fp8, resolve_hardware
from llm_cls.training.launch import launched_world_size
from llm_cls.training.shared import Shared


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Attributes:
        config: The validated configuration.
        hardware: The devices.
        corpus: The texts, split.
        architecture: The ``transformers`` configuration of the model.
        tokenizer: The tokenizer of the model.
        revision: Identifies the weights: the hub's commit, or a digest of local ones.
    """

    config: Config
    hardware: Hardware
    corpus: Corpus
    architecture: PretrainedConfig
    tokenizer: Tokenizer
    revision: str

    @property
    def class_weights(self) -> Floats | None:
        """See ``data.weights``."""
        return class_weights(self.config.loss, self.corpus)

    @property
    def identity(self) -> dict[str, Any]:
        """See ``runs.identity``."""
        facts = Facts(
            digest=self.corpus.digest,
            split={split: len(texts) for split, texts in self.corpus.splits.items()},
            model_name=None if self.revision.startswith("sha256:") else self.config.model.name,
            revision=self.revision,
            tokenizer=tokenizer_facts(self.tokenizer),
            precision=self.hardware.precision,
        )
        return identity(self.config, facts)

    def record(self, overrides: Sequence[str]) -> RunRecord:
        """``run.json`` of a run that begins now with this command line."""
        sizes = {f"n_{split}": len(texts) for split, texts in self.corpus.splits.items()}
        data = DataRecord(
            name=self.corpus.name, digest=self.corpus.digest, **sizes, labels=list(self.corpus.labels),
            warnings=list(self.corpus.warnings),
        )  # fmt: skip
        model = ModelRecord(name=self.config.model.name, revision=self.revision)
        hardware = self.hardware
        return new_record(
            self.identity, overrides, data, model, hardware.description, hardware.world_size, *hardware.cpu_numerics
        )


def tokenizer_facts(tokenizer: Tokenizer) -> TokenizerFacts:
    """The tokenizer in the identity of a run; a single id stands for itself, as in earlier versions."""
    prefix = tokenizer.prefix
    start = prefix[0] if len(prefix) == 1 else (list(prefix) or None)
    return tokenizer.fingerprint, start, tokenizer.eos_id


def prepare(config: Config, shared: Shared) -> Inputs:
    """Reads corpus, tokenizer and architecture, and checks that they fit one another and this machine.

    Raises:
        LlmClsError: With one line that tells the user what to change.
    """
    hardware = resolve_hardware(config.trainer)
    if config.engine.name == "fp8":
        check_fp8(hardware)
    _check_ranks(hardware)
    architecture, revision, tokenizer = shared.model(config.model)
    limit = max_positions(architecture)
    if limit is not None and config.data.max_length > limit:
        raise ConfigError(
            f"data.max_length must be <= {limit}, the positions of {config.model.name}, "
            f"got {config.data.max_length}. Try data.max_length={limit}"
        )
    corpus = shared.corpus(config.data)
    if config.template.uses_title and not corpus.has_titles:
        raise ConfigError(
            f"template {config.template.name!r} has {{title}}, but the corpus {corpus.name} has no titles. "
            "Try template=text"
        )
    if unknown := [name for name in config.data.columns or () if name not in corpus.columns]:
        raise ConfigError(
            f"template {config.template.name!r} has {{{unknown[0]}}}, but the corpus {corpus.name} has no such column. "
            "Try template=text"
        )
    if hardware.world_size > config.data.batch_size:
        raise ConfigError(
            f"trainer.devices must be <= data.batch_size ({config.data.batch_size}), got {hardware.world_size}"
        )
    class_weights(config.loss, corpus)  # raises where they do not fit the labels
    return Inputs(config, hardware, corpus, architecture, tokenizer, revision)


def _check_ranks(hardware: Hardware) -> None:
    """Compares the number of processes that torchrun or srun has started with the configuration."""
    ranks = launched_world_size()
    if ranks not in (None, hardware.world_size):
        raise ConfigError(
            f"torchrun or srun has started {ranks} processes, but trainer.devices={hardware.devices} and "
            f"trainer.num_nodes={hardware.num_nodes} make {hardware.world_size}. Start that many"
        )
    if hardware.num_nodes > 1 and ranks is None:
        raise ConfigError(
            f"trainer.num_nodes={hardware.num_nodes} needs a process on every machine. Start it with SLURM, or on "
            f"each of them with torchrun --nnodes={hardware.num_nodes} --nproc-per-node={hardware.devices} ... "
            "-m llm_cls.train ..."
        )
