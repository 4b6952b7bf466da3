from pipeline.config import BASELINES as MEASURED
from pipeline.report.html import MARKERS
from pipeline.report.labels import HEADS, head_name, look, metric_words, ordered


def test_every_head_that_is_measured_has_a_name_and_a_colour_of_its_own():
    assert set(HEADS) == {"dkvb", *MEASURED}
    assert len({look(head) for head in HEADS}) == len(HEADS) <= len(set(MARKERS))


def test_short_names_fit_a_narrow_figure():
    assert all(len(head_name(head, short=True)) <= 14 for head in [*HEADS, "a_head_that_nobody_knows"])
    assert head_name("a_head_that_nobody_knows") == "a head that nobody knows"


def test_an_unknown_metric_is_called_by_its_key():
    assert metric_words("odd_accuracy") == ("odd accuracy", "share", 0)
    assert metric_words("odd_count") == ("odd count", "number", 0)


def test_the_four_that_every_page_has_come_first_and_each_once():
    heads = ["mlp", "zebra", "dkvb", "streaming_lda", "mlp"]
    assert ordered(heads) == ["dkvb", "mlp", "streaming_lda", "zebra"]
