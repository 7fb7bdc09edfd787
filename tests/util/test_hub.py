"""Names of repositories, and a hub that refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalTokenNotFoundError

from dcache.errors import DcacheError
from dcache.util import hub
from tests.hub_server import serving, use


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("owner/name", ("owner/name", None)),
        ("hub:owner/name", ("owner/name", None)),
        ("hub:owner/name@v2", ("owner/name", "v2")),
    ],
    ids=["plain", "prefix", "revision"],
)
def test_a_place_has_a_name_and_perhaps_a_revision(text: str, place: tuple[str, str | None]) -> None:
    assert hub.place_of(text) == place


@pytest.mark.parametrize(
    "text", ["name", "hub:", "a/b/c", "/name", "owner/", "owner/name@", "../name", 5, None]
)
def test_other_forms_are_refused(text: Any) -> None:
    with pytest.raises(DcacheError, match="owner/name or owner/name@revision"):
        hub.place_of(text)


def test_a_name_that_the_hub_does_not_allow_is_no_lack_of_a_connection() -> None:
    with pytest.raises(DcacheError, match="'owner/a name' cannot be a repository of the hub"):
        hub.pull("owner/a name", ["*.json"])


def test_a_user_without_a_token_learns_how_to_log_in() -> None:
    def fill(folder: Path) -> None:
        # As the library does where it needs a token, whether this machine has one or not.
        raise LocalTokenNotFoundError("no token")

    with pytest.raises(DcacheError, match="hf auth login"):
        hub.push("owner/name", fill, message="files")


def test_files_go_up_and_only_those_asked_for_come_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.json").write_text("[1]")
        (folder / "b.py").write_text("print()")

    with serving() as server:
        use(server, tmp_path, monkeypatch)
        assert hub.push("me/x", fill, message="first", token="t").endswith("/me/x")
        folder = hub.pull("me/x", ("*.json",))
        assert sorted(path.name for path in folder.iterdir()) == ["a.json"]


def test_an_error_of_ours_is_not_the_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_folder: Path) -> None:
        raise ValueError("no table")

    with serving() as server:
        use(server, tmp_path, monkeypatch)
        with pytest.raises(ValueError, match="no table"):
            hub.push("me/x", fill, message="first", token="t")
