"""Two versions of one text, side by side."""

from hypothesis import given
from hypothesis import strategies as st

from loadtest.doctor.alignment import harmful, kinds_of, mended, pieces_of
from loadtest.doctor.kinds import ALL, NONE, Kind
from loadtest.doctor.text_units import units_of

SHARED = " All that follows is the same for everybody who asks, word for word, from here to the very end."
JSON = '{"a": 1, "b": "two three four"} '
PARTS = st.lists(
    st.sampled_from(["one ", "Two, ", "12 ", "\n\n", "2026-03-02 ", JSON, "é", "{", "\r\n"]), max_size=20
).map("".join)


def kinds_between(own: str, reference: str) -> set[Kind]:
    """Kinds of the differences in front of a shared text."""
    pieces = pieces_of(units_of(own + SHARED), units_of(reference + SHARED))
    assert pieces is not None
    return set(kinds_of(harmful(pieces)))


@given(st.text(max_size=60) | PARTS)
def test_units_add_up_to_the_text(text):
    """Nothing is lost when a text is cut, whatever stands in it."""
    assert "".join(unit.lead + unit.core for unit in units_of(text)) == text


@given(PARTS, PARTS)
def test_pieces_add_up_and_mending_everything_gives_the_reference(own, reference):
    """Without mending a text stays as it is; with all differences mended it is the other one."""
    pieces = pieces_of(units_of(own + SHARED), units_of(reference + SHARED))
    if pieces is not None:
        assert mended(pieces, NONE) == own + SHARED
        assert mended(pieces, ALL) == reference + SHARED
        assert mended(harmful(pieces), NONE) == own + SHARED


def test_every_kind_of_difference_is_named():
    """Each is told from the others by how it looks."""
    assert kinds_between("On 3 March 2026:", "On 14 May 2026:") == {Kind.DATE}
    assert kinds_between("At 2026-03-02T10:00:01Z:", "At 2026-03-04T11:00:01Z:") == {Kind.TIME}
    assert kinds_between("At 1772445600:", "At 1772449200:") == {Kind.TIME}
    assert kinds_between("Trace req_8f3a9c21d0:", "Trace req_11aa9c21d7:") == {Kind.ID}
    assert kinds_between("Turn 7:", "Turn 8:") == {Kind.COUNTER}
    assert kinds_between("Floor 7:", "Floor 8:") == {Kind.VALUE}
    assert kinds_between("For Alice Ames:", "For Bo:") == {Kind.VALUE}
    assert kinds_between("Be  kind:", "Be kind:") == {Kind.SPACE}
    assert kinds_between("Be kind.\r\n", "Be kind.\n") == {Kind.FORMAT}
    assert kinds_between("BE KIND:", "Be kind:") == {Kind.FORMAT}
    ordered, other = '{"name": "x", "place": "y y y"}', '{"place": "y y y", "name": "x"}'
    assert kinds_between(ordered, other) == {Kind.JSON}


def test_a_difference_at_the_end_does_no_harm():
    """What differs behind all shared text is where it should be."""
    pieces = pieces_of(units_of(SHARED + " For Alice."), units_of(SHARED + " For Bo."))
    assert pieces is not None
    assert kinds_of(harmful(pieces)) == NONE


def test_two_texts_are_no_versions_of_one():
    """Different instructions are not taken for each other."""
    assert pieces_of(units_of("Translate this text now." * 3), units_of("Write a poem on rain." * 3)) is None
