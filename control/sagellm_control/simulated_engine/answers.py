"""What the simulated engine says: an answer is a pure function of the prompt, the seed and the token's index.

A token is one word; all but the first begin with a space, so that joining tokens gives the text and counting
words gives the tokens back. The opening sentence carries a mark made from prompt and seed: two answers that
were swapped on the way differ in their first words.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

# Plain words without quotes or backslashes, so that a token stands in JSON as it is. As many sentences as a
# power of two: any odd stride then visits each of them once.
SENTENCES = (
    "The tide comes in whether or not anyone is watching.",
    "A good queue is patient and forgets nobody.",
    "Bread smells best a minute before it is ready.",
    "Somewhere a lighthouse keeper is reading a long novel.",
    "The mountain looks different from every village below it.",
    "Small boats cross the bay while the sun goes down.",
    "An old clock in the hall keeps surprisingly good time.",
    "Rain on a tin roof is the oldest lullaby.",
    "The garden grows a little each time we look away.",
    "Two friends share one umbrella and a bag of plums.",
    "Every map leaves out the sound of the river.",
    "A cat sleeps on the warmest shelf of the library.",
    "The train is late, so the conversation becomes better.",
    "Snow makes even the busy street speak softly.",
    "A baker, a pilot and a nurse wave at the same sunrise.",
    "The recipe says one pinch, and the cook smiles.",
    "Lanterns float over the lake like slow thoughts.",
    "Children draw a whale as big as the harbour.",
    "The violin waits quietly in its case until evening.",
    "Someone planted this tree so that you could sit here.",
    "A letter arrives, folded twice and smelling of lavender.",
    "The stars keep their appointments without any reminder.",
    "Warm tea turns a long wait into a short one.",
    "The bridge hums a low note when the wind is right.",
    "A paper kite climbs higher than the tallest chimney.",
    "The shopkeeper knows each customer by the sound of the door.",
    "Wild geese cross the field in one unhurried line.",
    "The old radio finds a song from another country.",
    "Fresh paint and open windows make the house feel young.",
    "A traveller learns ten words and makes three friends.",
    "The moon follows the last bus all the way home.",
    "Kindness is passed along like a cup of water.",
)


@lru_cache(maxsize=len(SENTENCES) * len(SENTENCES) // 2)
def _cycle(first: int, stride: int) -> tuple[str, ...]:
    """All sentences once, from `first` on in steps of `stride` (odd), as tokens."""
    order = (SENTENCES[(first + step * stride) % len(SENTENCES)] for step in range(len(SENTENCES)))
    return tuple(f" {word}" for sentence in order for word in sentence.split())


def answer_tokens(prompt: str, count: int, seed: int | None = None, start: int = 0) -> list[str]:
    """The tokens `start` … `start + count - 1` of the endless answer to `prompt`.

    A longer answer begins with the shorter one. Choice i of a request with n > 1 is the answer for the
    seed `(seed or 0) + i`; no seed and seed 0 are the same.
    """
    mark = crc32(f"{seed or 0}\n{prompt}".encode("utf-8", "surrogatepass"))
    opening = ["Answer", f" {mark:08x}", " says", " hello."]
    cycle = _cycle(mark % len(SENTENCES), (mark >> 8) % len(SENTENCES) | 1)
    if start + count <= len(opening):
        return opening[start : start + count]
    tokens = opening[start:]
    at = max(0, start - len(opening)) % len(cycle)
    while len(tokens) < count:
        tokens += cycle[at : at + count - len(tokens)]
        at = 0
    return tokens


def count_answer_tokens(text: str) -> int:
    """How many tokens of an answer `text` is made of."""
    return len(text.split())


def token_id(token: str) -> int:
    """The number that stands for a token on sageLLM's wire: stable, and below 2^31."""
    return crc32(token.encode()) & 0x7FFFFFFF
