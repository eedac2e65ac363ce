"""A real model behind the queue: llama.cpp's servers, everything else in front of them, and many chats at once.

    python examples/real_engine.py --llama-server PATH --model FILE.gguf

starts two llama-servers and `sagellm-control up`, sends 20 streamed chats of mixed priorities through the official
`openai` client, shows when each got its first token and from which engine, and stops everything. The exit code is 1
if any answer is empty or incomplete. `real_engine.md` beside this file tells how to get both files by pip.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sagellm_control.embedded import free_port

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # (`--help` needs none)

MODEL = "smollm2-135m"
CONTEXT_TOKENS = 2048  # of each slot; SmolLM2 was trained for 8192
READY_WITHIN_S = 60.0  # a cold disk makes loading weights slow
STOP_WITHIN_S = 50.0  # more than the 40 s that `up` gives its own processes
LOOK_EVERY_S = 0.1

# The most urgent come last, so that they have something to overtake.
CLASSES = ("BACKGROUND", "LOW", "NORMAL", "HIGH", "CRITICAL")
QUESTIONS = (
    "Why is the sky blue?",
    "What is the capital of France, and what is it known for?",
    "Explain in two sentences what a queue is.",
    "Write a short poem about rain.",
    "Name three animals that live in the sea and say one thing about each.",
)


@dataclass
class Chat:
    """One chat, and what came of it."""

    request_id: str
    priority: str
    question: str
    text: str = ""
    ttft_s: float = 0.0
    """From sending the request to the first piece of text."""
    total_s: float = 0.0
    tokens: int = 0
    """As the engine counted them."""
    finish_reason: str = ""
    engine: str = ""
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Process:
    """A process of ours, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    @contextmanager
    def running(cls, command: Sequence[str], log: Path) -> Generator[Process]:
        """Stopped at the end: SIGTERM, and SIGKILL if that does not help."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield cls(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Look until it is so; an error if the process ends first or the time is over."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not condition():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                why = f"{READY_WITHIN_S:g} s are over" if ended is None else f"it ended with {ended}"
                lines = self.log.read_text(errors="replace").splitlines()[-10:]
                raise SystemExit("\n  ".join([f"waited for {what}, but {why}; its last lines:", *lines]))
            time.sleep(LOOK_EVERY_S)


@dataclass(frozen=True)
class System:
    """A running control plane."""

    gateway_url: str
    redis_url: str

    def ask(self, *words: str) -> Any:
        """What a command of `sagellm-control` prints as JSON."""
        command = [sys.executable, "-m", "sagellm_control", *words, "--json", "--redis-url", self.redis_url]
        return json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)

    def client(self) -> AsyncOpenAI:
        """The official client, told where we are."""
        from openai import AsyncOpenAI

        # No retries: what fails is to be seen.
        return AsyncOpenAI(base_url=f"{self.gateway_url}/v1", api_key="none", max_retries=0, timeout=300)


@contextmanager
def llama_servers(
    binary: Path, weights: Path, logs: Path, *, count: int = 2, slots: int = 4, threads: int = 1
) -> Generator[list[str]]:
    """So many llama-servers on free ports; gives their URLs once all have loaded the model."""
    with ExitStack() as stack:
        urls: list[str] = []
        for number in range(1, count + 1):
            port = free_port()
            command = [str(binary), "-m", str(weights), "--alias", MODEL, "--host", "127.0.0.1", "--port", str(port)]
            command += ["-np", str(slots), "-c", str(CONTEXT_TOKENS * slots), "-t", str(threads)]
            command += ["--metrics", "--slots"]
            server = stack.enter_context(Process.running(command, logs / f"llama-server-{number}.log"))
            urls.append(f"http://127.0.0.1:{port}")
            server.wait_until(lambda url=urls[-1]: http_ok(f"{url}/health"), f"llama-server {number} to be ready")
        yield urls


@contextmanager
def control_plane(engines: Sequence[str], folder: Path) -> Generator[System]:
    """`sagellm-control up` in front of these engines; ready when every one of them is."""
    port, valkey_port = free_port(), free_port()
    command = [sys.executable, "-m", "sagellm_control", "up", "--port", str(port), "--valkey-port", str(valkey_port)]
    command += ["--data-dir", str(folder), *(word for url in engines for word in ("--engine", url))]
    system = System(f"http://127.0.0.1:{port}", f"redis://127.0.0.1:{valkey_port}/0")

    def all_ready() -> bool:
        return sum(row["state"] == "READY" for row in system.ask("engines", "list")) == len(engines)

    with Process.running(command, folder / "up.log") as up:
        up.wait_until(lambda: http_ok(f"{system.gateway_url}/ready"), "the gateway to be ready")
        up.wait_until(all_ready, "all engines to be ready")
        yield system


async def chat(client: AsyncOpenAI, this: Chat, max_tokens: int) -> None:
    """Stream one answer."""
    from openai import OpenAIError

    began = time.monotonic()
    try:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": this.question}],
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Request-Priority": this.priority, "X-Request-ID": this.request_id},
        )
        async for chunk in stream:
            for choice in chunk.choices:
                if choice.delta.content:
                    this.ttft_s = this.ttft_s or time.monotonic() - began
                    this.text += choice.delta.content
                this.finish_reason = choice.finish_reason or this.finish_reason
            if chunk.usage is not None:
                this.tokens = chunk.usage.completion_tokens
    except OpenAIError as error:
        this.problems.append(str(error))
    this.total_s = time.monotonic() - began


async def run_chats(system: System, count: int, max_tokens: int) -> tuple[list[Chat], float]:
    """So many chats at once; with what each came to, and the seconds that all took."""
    chats = [
        Chat(f"chat-{n:02}", CLASSES[n * len(CLASSES) // count], QUESTIONS[n % len(QUESTIONS)]) for n in range(count)
    ]
    began = time.monotonic()
    async with system.client() as client, asyncio.TaskGroup() as tasks:
        for this in chats:
            tasks.create_task(chat(client, this, max_tokens))
    took_s = time.monotonic() - began
    finished = system.ask("requests", "list", "--state", "finished", "--limit", "10000")
    records = {row["request_id"]: row for row in finished}
    for this in chats:
        record = records.get(this.request_id, {})
        this.engine = record.get("engine", "")
        check(this, record, max_tokens)
    return chats, took_s


def check(this: Chat, record: dict[str, Any], max_tokens: int) -> None:
    """Note what is wrong with an answer."""
    if not this.text.strip():
        this.problems.append("the answer is empty")
    if this.finish_reason not in ("stop", "length"):
        this.problems.append(f"it ended with {this.finish_reason or 'no finish_reason'}")
    if not 0 < this.tokens <= max_tokens or (this.finish_reason == "length" and this.tokens != max_tokens):
        this.problems.append(f"the engine counted {this.tokens} tokens of {max_tokens}")
    if record.get("outcome") != "completed":
        this.problems.append(f"its outcome is {record.get('outcome', 'not recorded')}")


def show(chats: Sequence[Chat], took_s: float) -> None:
    """A table in the order of the first tokens, and the sums."""
    print(f"{'request':9} {'priority':11} {'TTFT s':>7} {'total s':>8} {'tokens':>7}  {'engine':18} answer")
    for this in sorted(chats, key=lambda this: this.ttft_s):
        told = "; ".join(this.problems) or " ".join(this.text.split())[:44].rstrip()
        print(
            f"{this.request_id:9} {this.priority:11} {this.ttft_s:7.2f} {this.total_s:8.2f} {this.tokens:7}  "
            f"{this.engine:18} {told}"
        )
    tokens = sum(this.tokens for this in chats)
    bad = sum(bool(this.problems) for this in chats)
    for engine in sorted({this.engine for this in chats}):
        print(f"{engine}: {sum(this.engine == engine for this in chats)} chats")
    print(f"{len(chats)} chats, {bad} with problems; {tokens} tokens in {took_s:.1f} s: {tokens / took_s:.0f} tokens/s")


def http_ok(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def existing_file(text: str) -> Path:
    """An argument that names a file."""
    if not (path := Path(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file; examples/real_engine.md tells how to get it")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description="Chats with a real model through the queue.")
    parser.add_argument("--llama-server", type=existing_file, required=True, help="llama.cpp's llama-server")
    parser.add_argument("--model", type=existing_file, required=True, help="weights, a .gguf file of a chat model")
    parser.add_argument("--chats", type=int, default=20, help="chats at once (default: 20)")
    parser.add_argument("--max-tokens", type=int, default=64, help="most tokens of an answer (default: 64)")
    parser.add_argument("--engines", type=int, default=2, help="llama-servers (default: 2)")
    parser.add_argument("--slots", type=int, default=4, help="answers at once in each (default: 4)")
    options = parser.parse_args()
    if importlib.util.find_spec("openai") is None:
        parser.error("it needs the official client: pip install openai")
    threads = max(1, (os.cpu_count() or 1) // options.engines)
    with tempfile.TemporaryDirectory(prefix="sagellm-control-") as name, ExitStack() as stack:
        folder = Path(name)
        urls = stack.enter_context(
            llama_servers(
                options.llama_server,
                options.model,
                folder,
                count=options.engines,
                slots=options.slots,
                threads=threads,
            )
        )
        system = stack.enter_context(control_plane(urls, folder))
        print(f"{len(urls)} llama-servers with {options.slots} slots each behind {system.gateway_url}", flush=True)
        chats, took_s = asyncio.run(run_chats(system, options.chats, options.max_tokens))
        show(chats, took_s)
        return int(any(this.problems for this in chats))


if __name__ == "__main__":
    sys.exit(main())
