"""Names of sites: how they are spelled, and where in the model they lie."""

import pytest

from dcache.sites.names import span_of


@pytest.mark.parametrize("site", ["", "trunks", "block", "attn:x", "run:3", "run:-1-2", "block:-1", "mlp:0 "])
def test_what_is_no_name_has_no_span(site):
    with pytest.raises(ValueError, match="no site's name"):
        span_of(site)
