"""Going on with an answer whose engine, or worker, was lost in the middle of it.

What earlier attempts gave stands in the output log, in whole events: that is what the client has. From it comes the
text so far (`given_answer`); prompt and text make the body for the next engine (`continued_body`); and what that engine
says is made to look like the rest of the one stream (`continued_stream`).
"""

from __future__ import annotations

from .continued_body import CannotContinue
from .given_answer import GivenAnswer
from .takeover import Takeover

__all__ = ["CannotContinue", "GivenAnswer", "Takeover"]
