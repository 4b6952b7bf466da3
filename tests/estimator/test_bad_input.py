"""Each wrong input raises an exception of the expected type, with a message of three parts."""

import re

import pytest
from bad_inputs import EVERY
from reliability import note

from pipeline.data.image_files import CorruptImageError, UnreadableError

OTHER_KINDS = {
    TypeError: {
        "n_heads=2.5", "n_heads=True", "n_keys='many'", "smoothing='much'", "codes that are floats", "a mask of rows",
        "a setting that a file cannot hold", "rows in an iterator", "rows in a dict",
        "an encoder that is none", "a frozen estimator that is no encoder", "a setting of an earlier release",
        "key rows as in an earlier release", "merge with another kind of model", "a file of another kind of model",
        "a card that is no dict", "a card with NaN",
    },
    IndexError: {"a row that is not there"},
    KeyError: {"a split that is not there"},
    FileNotFoundError: {
        "a folder of images that is not there", "a manifest that is not there", "a cache that is not there",
        "a link to an image that is not there",
    },
    CorruptImageError: {"an image of 32-bit integers"},
    UnreadableError: {"a folder of images that cannot be read"},
    OSError: {"a cache that is text"},
}  # fmt: skip
EXPECTED = re.compile(r"expected|should (be|match)")
REMEDY = re.compile(
    r"\b(Set|Pass|Rescale|Convert|Choose|choose|Call|Use|Leave|leave|Forget|Encode|Change|Take|Start|Restore|Run"
    r"|Add|Save|Merge|Move|Fetch|Check|Update|Write|Look|Extract|Number|Name|name|Remove|remove|Ask|Correct|correct|mend|start|rename|Rename|quote|write|give|pass|Free|free|Divide|Get|Quote)\b"
)


def kind_of(name):
    return next((kind for kind, names in OTHER_KINDS.items() if name in names), ValueError)


def what_came(name):
    """Return the value in the name of the input, if any: the message must repeat it."""
    _, found, value = name.partition("=")
    return value if found else ""


@pytest.mark.parametrize("name", EVERY)
def test_a_wrong_input_says_what_came_what_is_expected_and_what_to_do(name, tmp_path):
    with pytest.raises(kind_of(name)) as caught:
        EVERY[name](tmp_path)
    assert caught.type is kind_of(name)
    text = " ".join(str(caught.value).split())
    expected = EXPECTED.search(text)
    assert expected, text
    remedy = [found.start() for found in REMEDY.finditer(text)]
    assert remedy, text
    assert remedy[-1] > expected.start(), text
    came = text[: expected.start()]
    assert len(came) > 15 or what_came(name) in came, text
    assert what_came(name) in came, text
    note("bad input", name, [caught.type.__name__])


def test_there_are_at_least_sixty():
    assert len(EVERY) >= 60


def test_no_kind_is_stated_for_an_input_that_is_none():
    assert set().union(*OTHER_KINDS.values()) <= set(EVERY)
