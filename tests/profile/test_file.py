"""Files of profiles come back as they were; what is damaged is refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.profile.file import FORMAT
from tests.profile.full_profile import flat, profile


@pytest.mark.parametrize("less", [{}, {"latencies": None, "ratios": None, "input_output_changes": None}])
def test_a_file_comes_back_as_it_was(tmp_path: Path, less: dict[str, Any]) -> None:
    one = profile(**less)
    path = one.save(tmp_path / "p.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["p.safetensors"]
    assert flat(Profile.load(path)) == flat(one)


def test_files_that_are_no_profiles_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(DcacheError, match="cannot read the profile"):
        Profile.load(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("{}")
    with pytest.raises(DcacheError, match="cannot read the profile"):
        Profile.load(tmp_path / "text")
    save_file({"a": np.ones(2)}, tmp_path / "weights")
    with pytest.raises(DcacheError, match="this is no profile"):
        Profile.load(tmp_path / "weights")
    for header, message in (
        (json.dumps({"version": 99}), "version 99"),
        ("[]", "damaged"),
        ("{", "cannot read"),
    ):
        save_file({"a": np.ones(2)}, tmp_path / "odd", {FORMAT: header})
        with pytest.raises(DcacheError, match=message):
            Profile.load(tmp_path / "odd")
    with pytest.raises(DcacheError, match="cannot write"):
        profile().save(tmp_path / "no" / "folder")


def test_a_damaged_file_is_read_as_it_says_or_refused(tmp_path: Path) -> None:
    whole = profile().save(tmp_path / "whole").read_bytes()
    rng, refused = random.Random(0), 0
    for i in range(400):
        content = bytearray(whole)
        if i % 4 == 0:
            content = content[: rng.randrange(len(content))]
        else:
            # Most of the flips in the header, where the meaning is.
            for _ in range(rng.randrange(1, 6)):
                content[rng.randrange(len(content) if i % 2 else 3000)] = rng.randrange(256)
        path = tmp_path / "damaged"
        path.write_bytes(content)
        try:
            found = Profile.load(path)
        except DcacheError:
            refused += 1
        else:
            # A flip in a text or a digit may go unseen; what comes back is usable.
            assert found.whole_site in found.sites
            assert np.isfinite(found.tables(found.whole_site, "value").relative).all()
    assert refused > 200
