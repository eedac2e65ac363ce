"""An engine that answers every request with the same bytes: what is left to measure is who asks.

python -m benchmarks.trivial_engine PORT
"""

from __future__ import annotations

import sys

import uvloop

from .plain_http import PlainHttp, json_answer, serve

ANSWER = json_answer(
    b'{"output_text":"Hi","output_tokens":[1],"prompt_tokens":1,"finish_reason":"stop",'
    b'"metrics":{"ttft_ms":0.1,"tbt_ms":0,"tpot_ms":0,"throughput_tps":1,"peak_mem_mb":0,"error_rate":0}}'
)


class TrivialEngine(PlainHttp):
    """One connection."""

    def answer(self, head: bytes, body: bytes) -> None:
        self.write(ANSWER)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), TrivialEngine))
