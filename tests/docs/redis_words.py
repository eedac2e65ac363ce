"""Stands in for ``redis-cli`` where there is none: runs the same words with redis-py and prints what comes.

python redis_words.py PORT [-3] [--raw] COMMAND ARGUMENT…
python redis_words.py PORT --scan --pattern PATTERN
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import redis


def lines(reply: Any) -> Iterator[str]:
    """A reply as lines."""
    match reply:
        case None:
            yield "(nil)"
        case dict():
            yield from (f"{name} => {value}" for name, value in reply.items())
        case list() | tuple() | set():
            for item in reply:
                yield from lines(item)
            if not reply:
                yield "(empty array)"
        case _:
            yield str(reply)


def main(port: int, words: list[str]) -> int:
    """Run the words."""
    options = [word for word in words if word in ("-3", "--raw")]
    words = [word for word in words if word not in options]
    with redis.Redis(port=port, decode_responses=True, protocol=3 if "-3" in options else 2) as client:
        if words[:2] == ["--scan", "--pattern"]:
            for key in client.scan_iter(match=words[2]):
                print(key)
            return 0
        if words[0] == "SUBSCRIBE":
            with client.pubsub() as subscription:
                subscription.subscribe(*words[1:])
                for message in subscription.listen():
                    print(message["type"], message["channel"], message["data"], sep="\n", flush=True)
            return 0
        try:
            print(*lines(client.execute_command(*words)), sep="\n")
        except redis.ResponseError as error:
            print(f"(error) {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
