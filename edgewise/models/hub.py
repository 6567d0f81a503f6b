"""Files of a model on the Hugging Face hub, from its local cache or fetched into it.

A model that is in the cache is used as it is there: its revision is the one whose configuration was
downloaded last (`hf download MODEL` brings a newer one), and files that are missing are fetched of
that revision, so that no two ever mix. Only for those is the network asked, and once a process has
found that it cannot be reached, not again: what is not in the cache, the model may well not have.
"""

import re
from pathlib import Path

import huggingface_hub as library  # it loads its parts, and an HTTP client, at their first use

from edgewise.errors import ModelError

CONFIG = "config.json"
ANSWER_SECONDS = 10.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_unreachable: set[str] = set()


def is_hub_id(model: str) -> bool:
    """Whether the hub's library takes `model` for the id of a repository, owner and name."""
    from huggingface_hub import errors, utils

    try:
        utils.validate_repo_id(model)  # type: ignore[attr-defined]  # documented all the same
    except errors.HFValidationError:
        return False
    return "/" in model


def hub_file(model: str, name: str) -> Path:
    """The path of a file. Raises FileNotFoundError where the model does not have it, ModelError
    where there is no such model, or no way to it."""
    config = library.try_to_load_from_cache(model, CONFIG)
    if not isinstance(config, str):
        return _downloaded(model, name, None)
    revision = Path(config).parent.name
    cached = library.try_to_load_from_cache(model, name, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    pinned = revision if _COMMIT.fullmatch(revision) else None
    if cached is not None or not _reachable(model, name, pinned):
        raise FileNotFoundError(name)
    return _downloaded(model, name, pinned)


def _reachable(model: str, name: str, revision: str | None) -> bool:
    """Whether the hub answers at the first attempt: downloads try again for minutes."""
    from huggingface_hub import errors

    if model in _unreachable:
        return False
    try:
        library.get_hf_file_metadata(
            library.hf_hub_url(model, name, revision=revision), timeout=ANSWER_SECONDS
        )
    except errors.LocalEntryNotFoundError:
        _unreachable.add(model)
    except errors.EntryNotFoundError:
        pass  # an answer; the download will remember it
    except Exception:  # whatever the library's HTTP client raises
        _unreachable.add(model)
    return model not in _unreachable


def _downloaded(model: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import errors

    try:
        return Path(library.hf_hub_download(model, name, revision=revision))
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if revision is not None:
            raise FileNotFoundError(name) from None
        raise ModelError(
            f"{model}: no such folder, and the hub cannot be reached for {name}: {error}"
        ) from None
    except errors.EntryNotFoundError:
        raise FileNotFoundError(name) from None
    except Exception as error:  # the library's own, its HTTP client's, the file system's
        raise ModelError(f"{model}: no such folder, and not on the hub: {error}") from None
