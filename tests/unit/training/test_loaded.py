"""What a finished run loads besides the weights."""

import json
import shutil
from pathlib import Path

import pytest

from llm_cls.config.schema import ModelConfig
from llm_cls.data.tokenizer import load_tokenizer
from llm_cls.errors import ArtifactError
from llm_cls.hub import SHIPPED
from llm_cls.runs.schema import RunRecord
from llm_cls.training.loaded import _load_own_tokenizer
from llm_cls.training.prepare import tokenizer_facts

CODE = """
import json
from pathlib import Path

from transformers import PythonBackend


class Letters(PythonBackend):
    vocab_files_names = {"vocab_file": "letters.json"}

    def __init__(self, vocab_file, **settings):
        self.ids = json.loads(Path(vocab_file).read_text())
        super().__init__(**settings)

    @property
    def vocab_size(self):
        return len(self.ids)

    def get_vocab(self):
        return dict(self.ids)

    def _tokenize(self, text, **settings):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.ids.get(token, 0)

    def _convert_id_to_token(self, index):
        return list(self.ids)[index]

    def save_vocabulary(self, folder, filename_prefix=None):
        path = Path(folder) / "letters.json"
        path.write_text(json.dumps(self.ids))
        return (str(path),)
"""


@pytest.fixture
def model(tmp_path: Path) -> ModelConfig:
    """A model folder whose tokenizer is code."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(SHIPPED["ja-mini"] / "config.json", folder)
    (folder / "tokenization_letters.py").write_text(CODE)
    (folder / "letters.json").write_text(json.dumps({"?": 0, "$": 1, "a": 2, "b": 3}))
    names = {"AutoTokenizer": ["tokenization_letters.Letters", None]}
    described = {"tokenizer_class": "Letters", "auto_map": names, "eos_token": "$", "unk_token": "?"}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return ModelConfig(name=str(folder), trust_remote_code=True)


def test_a_tokenizer_with_code_comes_from_the_model(model: ModelConfig, tmp_path: Path) -> None:
    """The code in a run directory is never executed, because the command line trusts that of the model."""
    run = tmp_path / "run"
    run.mkdir()
    trained = load_tokenizer(model)
    trained.save(run)
    mark = tmp_path / "executed"
    for path in run.glob("*.py"):
        path.write_text(f"open({str(mark)!r}, 'w')")
    identity = json.loads(json.dumps({"model.tokenizer": tokenizer_facts(trained)}))
    record = RunRecord.model_construct(identity=identity)
    found = _load_own_tokenizer(run, model, None, record)
    assert found.encode(["ab"]) == [[2, 3]] and not mark.exists()
    (Path(model.name) / "letters.json").write_text(json.dumps({"?": 0, "$": 1, "a": 3, "b": 2}))
    with pytest.raises(ArtifactError, match=r"does not hold the tokenizer that the run was trained with\. Restore it"):
        _load_own_tokenizer(run, model, None, record)
