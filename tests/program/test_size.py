import pytest

from actquant.program.size import Size, fit_size, parse_size


@pytest.mark.parametrize(
    ("constant", "factor", "text"),
    [(0, 1, "L"), (0, 3, "3*L"), (35, 1, "35+L"), (-3, 2, "-3+2*L"), (5, -1, "5+-1*L")],
)
def test_a_size_is_written_and_read_as_the_format_says(constant, factor, text):
    size = Size(constant, factor, 10)
    assert str(size) == text and size == constant + 10 * factor
    assert parse_size(text, 7) == constant + 7 * factor


def test_a_size_is_what_two_lengths_say():
    assert fit_size((46, 52), (11, 17)).__repr__() == "35+L"
    assert fit_size((12, 12), (11, 17)) == 12 and type(fit_size((12, 12), (11, 17))) is int
    assert fit_size((12, 14), (11, 17)) is None


@pytest.mark.parametrize("text", ["x", "2L", "a*L", "1+2"])
def test_other_words_are_no_sizes(text):
    with pytest.raises(ValueError):
        parse_size(text, 7)


def test_a_size_that_follows_the_length_needs_it():
    assert parse_size("12", None) == 12
    with pytest.raises(ValueError, match=r"35\+L depends on the number of prompt tokens"):
        parse_size("35+L", None)
