"""Words as `pieces` finds them: by Unicode's rules, and in English as by the expression of before."""

import random
import re

import pytest

from fedrecon.datasets.text._tokenizers import pieces

BEFORE = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")  # of version 0.1, which knew no combining marks
WORDS = {
    "Hindi": ["हिन्दी", "भाषा"],
    "Tamil": ["தமிழ்", "மொழி"],
    "Kannada": ["ಕನ್ನಡ"],
    "Thai, which has no spaces": ["ภาษาไทย"],
    "Arabic with vowels": ["عَرَبِيّ"],
    "Hebrew with points": ["שָׁלוֹם"],
    "decomposed accents": ["cafe\u0301", "nai\u0308ve"],
    "Vietnamese, decomposed": ["tie\u0302\u0301ng", "vie\u0323\u0302t"],
    "a non-joiner in Persian": ["می\u200cخواهم"],
    "a joiner in Malayalam": ["അവന്\u200d"],
    "a soft hyphen": ["co\u00adoperate"],
    "an accent after an apostrophe": ["l'e\u0301te\u0301", "l’e\u0301te\u0301"],
    "jamo": ["\u1112\u1161\u11ab"],
}


@pytest.mark.parametrize("kind", WORDS)
def test_marks_stay_with_their_letters(kind):
    assert pieces(" ".join(WORDS[kind])) == WORDS[kind]
    assert pieces(", ".join(WORDS[kind])) == [x for w in WORDS[kind] for x in (w, ",")][:-1]


def test_turkish_capitals():
    assert pieces("İSTANBUL'DA İki") == ["i\u0307stanbul'da", "i\u0307ki"]


def test_signs_stay_together_with_what_joins_them():
    assert pieces("I ❤️ you 👩\u200d💻!! 👍🏽👍") == ["i", "❤️", "you", "👩\u200d💻!!", "👍🏽👍"]


ENGLISH = """'Tis the year's midnight, and it is the day's; don't stop -- it's 3.14% of U.S. $1,000.50
(e.g. a_b).
“Curly quotes,” he said—they’re everywhere… naïve café, Zoë’s résumé;
x² + ½ = ①, 5°C, £3, €4, §2, 日本語テキスト, 한국어."""


def test_english_is_parted_as_before():
    assert pieces(ENGLISH) == BEFORE.findall(ENGLISH.lower())
    draw = random.Random(0)
    letters = [chr(c) for c in range(0x250) if chr(c) not in "\u00ad\u0130"] + list("’‘“”–—… \t\n'._")
    for _ in range(2000):
        text = "".join(draw.choices(letters, k=30))
        assert pieces(text) == BEFORE.findall(text.lower())


def test_no_character_alone_is_parted_otherwise():
    characters = [chr(c) for c in range(0x3000)]
    assert all(BEFORE.findall(c.lower()) == pieces(c) for c in characters if len(c.lower()) == 1)
    assert pieces("\u0301 x") == ["\u0301", "x"]
