from __future__ import annotations

import pytest

from shards.sources.source import Listed, Listing


def test_a_listing_is_a_sequence_of_what_it_lists() -> None:
    listing, keys = Listing("val", ("c", "a", "b")), ["c", "a", "b"]
    expected = [Listed(key=key, split="val", position=position) for position, key in enumerate(keys)]
    assert list(listing) == expected and len(listing) == 3
    assert listing[1:] == expected[1:] and listing[::2] == expected[::2] and listing[5:9] == []
    assert (listing[0], listing[-1]) == (expected[0], expected[-1])
    with pytest.raises(IndexError):
        _ = listing[3]
