"""The name of every file in a run directory and in a sweep, each stated once."""

# A run directory.
CONFIG = "config.yaml"
RECORD = "run.json"
HISTORY = "history.jsonl"
METRICS = "metrics.json"
MANIFEST = "manifest.json"  # of the run; model/ has one of its own
PREDICTIONS = "predictions"  # a folder with val.jsonl and test.jsonl
MODEL = "model"
CHECKPOINTS = "checkpoints"
EVALUATIONS = "evaluations"  # a folder for each file that the finished run was evaluated on
CALIBRATION = "calibration.json"  # of the finished run, when asked for
CURVES = "calibration"  # a folder with the curves of the calibration
FAILURE = "failed.json"
LOG = "train.log"
LOCK = ".lock"

# In checkpoints/: a file per epoch, whose name ends with its sha256.
CHECKPOINT_FILES = "epoch-*-*.ckpt"
SCHEMA_2_CHECKPOINT = "last.ckpt"
SCHEMA_2_BEST = "best-{epoch:03d}.safetensors"

# In model/; the other files there are those of PEFT and of the tokenizer.
HEAD = "head.safetensors"
ADAPTER = "adapter_model.safetensors"
NETWORK = "model.safetensors"  # instead of an adapter, where the whole network was trained
LABELS = "labels.json"

# The folder of an evaluation.
EVALUATION = "evaluation.json"
EVALUATED = "predictions.jsonl"

# The folder of a sweep.
PLAN = "sweep.jsonl"
SWEEP_CONFIG = "multirun.yaml"
JOURNAL = "optuna.jsonl"


def checkpoint(epoch: int) -> str:
    """The file in ``checkpoints/`` after an epoch, counted from 1, before it is sealed."""
    return f"epoch-{epoch:04d}.ckpt"
