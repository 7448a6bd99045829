"""The name of every file in a run directory and in a sweep, each stated once."""

# A run directory.
CONFIG = "config.yaml"
RECORD = "run.json"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
PREDICTIONS = "predictions"  # a folder with val.jsonl and test.jsonl
MODEL = "model"
CHECKPOINTS = "checkpoints"
FAILURE = "failed.json"
LOG = "train.log"
LOCK = ".lock"

# In checkpoints/.
LAST_CHECKPOINT = "last.ckpt"
BEST_CHECKPOINTS = "best-*.safetensors"

# In model/; the other files there are those of PEFT and of the tokenizer.
HEAD = "head.safetensors"
ADAPTER = "adapter_model.safetensors"
NETWORK = "model.safetensors"  # instead of an adapter, where the whole network was trained
LABELS = "labels.json"
MANIFEST = "manifest.json"

# The folder of a sweep.
PLAN = "sweep.jsonl"
SWEEP_CONFIG = "multirun.yaml"
JOURNAL = "optuna.jsonl"


def best_checkpoint(epoch: int) -> str:
    """The file in ``checkpoints/`` with the trained weights of the best epoch, counted from 1."""
    return BEST_CHECKPOINTS.replace("*", f"{epoch:03d}")
