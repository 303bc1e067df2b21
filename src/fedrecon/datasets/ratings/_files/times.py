"""Times as files write them: numbers, ISO 8601, and dates as Twitter and Goodreads write them."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from fedrecon.data._arrow_bridge import to_numpy

RULE = "time must be a number of 64 bits or a date such as 2009-05-04T23:08:57Z"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Wed Aug 30 00:00:26 -0700 2017
_WITH_DAY_NAME = (
    r"^[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[0-9]{2}) (?P<clock>[0-9]{2}:[0-9]{2}:[0-9]{2}) "
    r"(?P<hours>[+-][0-9]{2})(?P<minutes>[0-9]{2}) (?P<year>[0-9]{4})$"
)
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_NUMBER = r"^-?[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?$"
_MICROSECONDS = 1_000_000
# The form of times that are numbers; those of dates are others.
NUMBERS = "numbers"


def parse_times(texts: pa.ChunkedArray) -> Int64[np.ndarray, "row"] | Float64[np.ndarray, "row"] | None:
    """Times that are written as text, all in one way.

    Args:
        texts: A column of texts without missing values.

    Returns:
        `[row]`: numbers as they are, whole ones of 64 bits where all are whole, and dates as seconds since
        1970 in UTC, which a date without a zone is taken to be in. None where one is neither.
    """
    return parse_times_of_form(texts)[1]


def parse_times_of_form(
    texts: pa.ChunkedArray,
) -> tuple[str, Int64[np.ndarray, "row"] | Float64[np.ndarray, "row"] | None]:
    """As `parse_times`, with the form of the times before: all of a column must be of one."""
    texts = pc.utf8_trim(texts.cast(pa.string()), characters=" \t")
    if pc.all(pc.match_substring_regex(texts, _NUMBER), min_count=0).as_py():
        try:
            return NUMBERS, to_numpy(texts.cast(pa.int64()))
        except pa.ArrowInvalid:  # fractions, or beyond 64 bits
            return NUMBERS, convert_numeric_times(to_numpy(texts.cast(pa.float64())))
    for form in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return str(form), to_seconds(texts.cast(form))
        except pa.ArrowInvalid:
            continue
    return "dates with the name of the day", _parse_times_with_day_names(texts)


def to_seconds(moments: pa.ChunkedArray) -> Int64[np.ndarray, "row"] | Float64[np.ndarray, "row"]:
    """Moments in microseconds as seconds since 1970: whole numbers where all are whole."""
    microseconds = to_numpy(moments.cast(pa.int64()))
    seconds, rest = np.divmod(microseconds, _MICROSECONDS)
    return microseconds / _MICROSECONDS if rest.any() else seconds


def convert_numeric_times(
    numbers: Float64[np.ndarray, "row"],
) -> Int64[np.ndarray, "row"] | Float64[np.ndarray, "row"] | None:
    """Floats as times: whole numbers where all are whole; None where one exceeds 64 bits or is nan."""
    if not (np.abs(numbers) < 2.0**63).all():
        return None
    whole = numbers.astype(np.int64)
    return whole if (whole == numbers).all() else numbers


def is_time(text: str) -> bool:
    """Whether `text` is a time by itself."""
    if not text.isascii():  # nor can Arrow take what stands for bytes that are not UTF-8
        return False
    if _WHOLE.fullmatch(text.strip(" \t")):
        return True
    return parse_times(pa.chunked_array([[text]], pa.string())) is not None


def _parse_times_with_day_names(texts: pa.ChunkedArray) -> Int64[np.ndarray, "row"] | None:
    parts = pc.extract_regex(texts, _WITH_DAY_NAME)
    months = pc.index_in(pc.struct_field(parts, "month"), pa.array(_MONTHS))
    if parts.null_count or months.null_count:
        return None
    month = pc.utf8_lpad(pc.add(months, 1).cast(pa.string()), 2, "0")
    year, day, clock, hours, minutes = (
        pc.struct_field(parts, name) for name in ("year", "day", "clock", "hours", "minutes")
    )
    date = pc.binary_join_element_wise(year, month, day, "-")
    zone = pc.binary_join_element_wise(hours, minutes, ":")
    moment = pc.binary_join_element_wise(date, pc.binary_join_element_wise(clock, zone, ""), "T")
    try:
        return to_numpy(moment.cast(pa.timestamp("s", "UTC")).cast(pa.int64()))
    except pa.ArrowInvalid:  # the thirtieth of February
        return None
