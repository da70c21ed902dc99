"""A finished export to the hub: a new repository, private unless asked, gone again on failure.

The token is the one of huggingface_hub (HF_TOKEN or its login). It is never read here, and nothing
that the hub or its client says is passed on, since that could carry it.
"""

from __future__ import annotations

from pathlib import Path

from inspector.errors import ExportError
from inspector.jobs import Progress, silent


def check_hub(repository: str) -> None:
    """Find out before the work whether a repository could be made: its name, and a login.

    Raises:
        ExportError: a name that the hub does not take or that is taken, no login, or no network.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        if "/" not in repository:  # whose it would be, the hub takes from the login for some calls
            raise errors.HFValidationError
        hub.HfApi().whoami()
        taken = hub.HfApi().repo_exists(repository)
    except errors.HFValidationError:
        raise ExportError(
            f"{repository!r} is no name of a repository: write organisation/name."
        ) from None
    except errors.LocalTokenNotFoundError:
        raise ExportError("there is no login for the hub: log in (hf auth login).") from None
    except _faults() as error:
        raise ExportError(
            f"the hub does not know who you are ({type(error).__name__}): check the network, "
            "then log in (hf auth login)."
        ) from None
    if taken:
        raise ExportError(f"{repository} is there already, and is left alone: choose another name.")


def push(
    folder: Path, repository: str, *, private: bool = True, progress: Progress = silent
) -> str:
    """Upload a folder as a new repository; its address.

    Args:
        folder: a finished export, which stays where it is.
        repository: organisation/name; it must not exist.
        private: whether only its owners see it.
        progress: called between the stages; may cancel, which removes the repository.

    Raises:
        ExportError: it exists, or may not be made, or the upload broke off; what was made of it on
            the hub is removed.
    """
    import huggingface_hub as hub

    api = hub.HfApi()
    progress(0, 2, "making the repository")
    try:
        made = api.create_repo(repository, private=private, exist_ok=False)
    except _faults() as error:
        raise ExportError(
            f"the repository {repository} cannot be made ({_kind(error)}): it is there already, or "
            f"your login may not write there; the export is in {folder}."
        ) from None
    try:
        progress(1, 2, "uploading")
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Export of a pruned model"
        )
        progress(2, 2, "uploaded")
    except BaseException as error:
        left = _remove(repository)
        if isinstance(error, _faults()):
            raise ExportError(
                f"the upload to {repository} broke off ({_kind(error)}){left}: try again, the "
                f"export is in {folder}."
            ) from None
        raise
    return str(made)


def _remove(repository: str) -> str:
    """Remove what was made on the hub; what to say about it."""
    import huggingface_hub as hub

    try:
        hub.HfApi().delete_repo(repository, missing_ok=True)
    except _faults():
        return ", and what there is of it could not be removed: delete it on its page"
    return ", and it was removed"


def _faults() -> tuple[type[Exception], ...]:
    """What the hub's client raises where something is wrong between it and the hub.

    An upload of a large file that failed is a RuntimeError, one that was refused a ValueError.
    """
    import httpx2

    return httpx2.HTTPError, OSError, RuntimeError, ValueError


def _kind(error: Exception) -> str:
    """What went wrong, without a word of the hub's own."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if isinstance(status, int) else type(error).__name__
