from pipeline.config import BASELINES as MEASURED
from pipeline.report.figures import MARKS, SERIES
from pipeline.report.labels import METHODS, look, method_name, metric_words, ordered


def test_every_method_that_is_measured_has_a_name_a_colour_and_a_sign_of_its_own():
    assert set(METHODS) == {"dkvb", *MEASURED}
    assert len({look(method) for method in METHODS}) == len(METHODS) <= len(set(MARKS)) == len(set(SERIES))


def test_short_names_fit_a_narrow_figure():
    assert all(len(method_name(method, short=True)) <= 14 for method in [*METHODS, "a_method_that_nobody_knows"])
    assert method_name("a_method_that_nobody_knows") == "a method that nobody knows"


def test_an_unknown_metric_is_called_by_its_key():
    assert metric_words("odd_accuracy") == ("odd accuracy", "share", 0)
    assert metric_words("odd_count") == ("odd count", "number", 0)


def test_the_four_that_most_pages_have_come_first_and_each_once():
    methods = ["mlp", "zebra", "dkvb", "streaming_lda", "mlp"]
    assert ordered(methods) == ["dkvb", "mlp", "streaming_lda", "zebra"]
