"""English-like texts, the same on every machine."""

from __future__ import annotations

import random
from typing import Final

__all__ = ["english_texts", "texts_of"]

_SHORTEST, _LONGEST = 12, 220  # words

_WORDS: Final = tuple(
    """
a about above across after again against air all almost alone along already also although always among an and animal
another answer any apple are around as ask at away back bank be because become bed been before began behind being
below best better between big bird black blue boat body book both bottom box boy bread bridge bring brother brought
build building but by call came can car carefully carry cat centre certain chair change child children city clear
close cold colour come company complete cook could country course cross cut day decide deep did different dinner
distance do doctor does dog done door down draw drink drive dry during each early earth east easy eat eight either
else end engine enough even evening ever every everyone example eye face fact fall family far farm fast father feel
feet few field figure final find fine fire first fish five floor flower fly follow food foot for forest forget form
found four free friend from front full game garden gave general get girl give glass go gold good government great
green ground group grow had half hand happen happy hard has have he head hear heart heavy held help her here high
hill him his history hold home horse hospital hot hour house how however hundred idea if important in inside into
is island it its job journey just keep kept kind king kitchen knew know known land language large last late later
laugh law learn leave left less letter library life light like line list listen little live long look lost love low
machine made main make man many map market may me mean measure meet member message mile milk million mind minute
money month more morning most mother mountain mouth move much music must my name near need never new next night nine
no north not nothing notice now number of off office often old on once one only open or orange order other our out
outside over own page paper parent part pass past pattern people perhaps person picture piece place plain plan plant
play point policeman poor possible power present president problem produce public pull question quick quiet quite
radio rain ran reach read ready real reason record red remember report rest result return rich right river road rock
room round rule run said same saw say school science sea second see seem sentence serve set seven several she ship
shop short should show side simple since sing sister sit six sleep slow small snow so some something song soon sound
south space speak special spring stand star start state station stay still stone stood stop story street strong
student study such summer sun sure surface system table take talk teacher tell ten than that the their them then
there these they thing think this those thought thousand three through time to together told too took top toward town
train travel tree true try turn twelve two under understand university until up upon us use usual valley very village
voice wait walk wall want war warm was watch water way we weather week well went were west what when where which while
white who whole why wide will wind window winter wish with without woman wood word work world would write written
year yellow yes yesterday yet you young
""".split()  # noqa: SIM905
)


def english_texts(n: int, seed: int = 0) -> list[str]:
    """``n`` texts of 12 to 220 words, all lengths alike, in random order."""
    stream = random.Random(seed)
    lengths = [_SHORTEST + (_LONGEST - _SHORTEST) * i // max(n - 1, 1) for i in range(n)]
    stream.shuffle(lengths)
    return [_text(stream, length) for length in lengths]


def texts_of(n_words: int, n: int, seed: int) -> list[str]:
    """``n`` texts of ``n_words`` words each."""
    stream = random.Random(seed)
    return [_text(stream, n_words) for _ in range(n)]


def _text(stream: random.Random, n_words: int) -> str:
    sentences: list[str] = []
    while n_words > 0:
        length = min(n_words, stream.randint(5, 18))
        if n_words - length < 5:
            length = n_words
        words = stream.choices(_WORDS, k=length)
        if length > 9:
            words[length // 2] += ","
        sentences.append(" ".join(words).capitalize() + stream.choice("....?"))
        n_words -= length
    return " ".join(sentences)
