"""Files on Hugging Face's hub: a folder up, named files down. Nothing that is read there is run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError

# What a repository of dcache's files is marked with.
TAG = "dcache"
_CLIENTS = {"httpx", "httpcore", "requests", "huggingface_hub"}


def place_of(repository: str) -> tuple[str, str | None]:
    """Name and revision of a repository.

    >>> place_of("hub:someone/flux-fast@v2")
    ('someone/flux-fast', 'v2')

    Args:
        repository: "owner/name", with "@revision" or without, and with "hub:" before it or without.

    Raises:
        DcacheError: it has another form.
    """
    if not isinstance(repository, str):
        raise DcacheError(
            f"a repository of the hub is text, owner/name or owner/name@revision, got {repository!r}"
        )
    name, at, revision = repository.removeprefix("hub:").partition("@")
    owner, slash, rest = name.partition("/")
    if not (slash and owner and rest) or "/" in rest or ".." in name or (at and not revision):
        raise DcacheError(
            f"a repository of the hub is written owner/name or owner/name@revision, got {repository!r}"
        )
    return name, revision or None


def push(
    repository: str,
    fill: Callable[[Path], object],
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Make a repository, if there is none, and upload a folder's files to it.

    Args:
        repository: "owner/name".
        fill: called with an empty folder; writes the files.
        message: of the commit.
        private: whether a new repository is private; None for the owner's usual setting.
        token: the user's token; None for the one of `hf auth login`.

    Returns:
        The repository's address.

    Raises:
        DcacheError: the hub cannot be reached, or refuses.
    """
    name, revision = place_of(repository)

    def upload(hub: Any) -> str:
        api = hub.HfApi(token=token, library_name=TAG)
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision)
        return str(address)

    return _reached(name, upload)


def pull(repository: str, patterns: Sequence[str], token: str | None = None) -> Path:
    """The folder with a repository's files; those that were downloaded before are not again.

    Args:
        repository: "owner/name", "owner/name@revision".
        patterns: names of the files that are wanted, with `*`; no others are downloaded.
        token: the user's token; None for the one of `hf auth login`.

    Raises:
        DcacheError: the hub cannot be reached and the files are not in its cache, or there is no such
            repository.
    """
    name, revision = place_of(repository)
    return _reached(
        name,
        lambda hub: Path(
            hub.snapshot_download(
                name, revision=revision, allow_patterns=list(patterns), token=token, library_name=TAG
            )
        ),
    )


def _reached(name: str, ask: Callable[[Any], Any]) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DcacheError("the hub needs huggingface_hub: pip install huggingface_hub") from error
    from huggingface_hub import errors

    try:
        return ask(huggingface_hub)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise DcacheError(
            f"the hub has no repository {name} of this revision that you may read. Check the name, or log in "
            "with: hf auth login"
        ) from error
    except errors.HFValidationError as error:
        raise DcacheError(f"{name!r} cannot be a repository of the hub: {_first_line(error)}") from error
    except errors.LocalTokenNotFoundError as error:
        raise DcacheError(
            f"the hub needs your token for {name}: log in with hf auth login, or give token="
        ) from error
    except errors.HfHubHTTPError as error:
        raise DcacheError(f"the hub refuses {name}: {_first_line(error)}") from error
    except Exception as error:
        # Its client of HTTP has errors of its own, which differ between versions of the library.
        ours = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS
        if not ours:
            raise
        raise DcacheError(
            f"the hub cannot be reached for {name}, and its files were not downloaded before "
            f"({_first_line(error)}). Connect once, or give the path of a file instead."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
