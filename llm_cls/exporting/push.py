"""Uploads an export to the hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from llm_cls.errors import ConfigError, first_line


def push(folder: Path, name: str, private: bool) -> str:
    """Creates the repository, if it does not exist, and uploads the folder as one commit.

    The token is that of ``hf auth login`` or of the variable HF_TOKEN; it is written nowhere.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: The hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload an export of llm_cls")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError, ValueError) as error:
        raise ConfigError(
            f"push={name} has failed: {first_line(error).rstrip('.')}. The export is in {folder}: run `hf auth login`, "
            f"then `hf upload {name} {folder}`"
        ) from None
    return str(done.commit_url)
