"""Runs of the command line against a server, and the comparison of both accounts."""

import json
import os
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

from follows import follows
from processes import SERVED
from servers import Count

KEY = "SERVERS_KEY"
MAX_TEXT_TOKENS = 60
MAX_JSON_TOKENS = 400


@dataclass(frozen=True)
class Wire:
    """A way to ask a server."""

    server: str
    name: str
    #: `PROVIDER:MODEL` of the command line.
    model: str
    #: Follows the server's address.
    path: str
    schema: str
    #: The server takes the schema only in this field of the body, of its own making.
    schema_field: str | None = None
    #: The server ignores a schema in the wire's own field.
    ignores_schema: bool = False
    #: The server reports and books zero tokens for streams.
    uncounted_streams: bool = False


WIRES = [
    Wire("llama.cpp", "chat", "llamacpp:tiny", "/v1", "bounded"),
    Wire("llama.cpp", "responses", "openai-responses:tiny", "/v1", "bounded", schema_field="json_schema", ignores_schema=True),
    Wire("llama.cpp", "messages", "anthropic:tiny", "", "plain", ignores_schema=True),
    Wire("LiteLLM", "chat", "openai-compatible:tiny", "/v1", "plain"),
    Wire("LiteLLM", "responses", "openai-responses:tiny", "/v1", "plain"),
    Wire("LiteLLM", "messages", "anthropic:tiny", "", "plain"),
    Wire("LiteLLM", "gemini", "gemini:tiny", "/v1beta", "plain", uncounted_streams=True),
]


@dataclass(frozen=True)
class Run:
    wire: Wire
    stream: bool
    #: `no`, `yes`, `ignored`: the wire's own field, which the server ignores, so that no item can succeed.
    schema: str = "no"

    @property
    def uncounted(self):
        return self.stream and self.wire.uncounted_streams

    @property
    def name(self):
        words = [self.wire.server, self.wire.name, "stream" if self.stream else "whole", f"schema:{self.schema}"]
        return " ".join(words)


def all_runs():
    for wire in WIRES:
        schemas = ["no"]
        if not wire.ignores_schema or wire.schema_field:
            schemas.append("yes")
        if wire.ignores_schema:
            schemas.append("ignored")
        for schema in schemas:
            for stream in (False, True):
                yield Run(wire, stream, schema)


@dataclass
class Result:
    """What a run of the command line came to."""

    status: int
    rows: list
    summary: dict
    errors: str
    seconds: float

    def count(self):
        total = Count()
        for row in self.rows:
            total += Count(row["calls"], row["usage"]["input"], row["usage"]["output"])
        return total

    @property
    def unknown(self):
        return sum(row.get("unknown_usage_calls", 0) for row in self.rows)

    @property
    def succeeded(self):
        return sum(row["ok"] for row in self.rows)

    def failures(self):
        return Counter(
            f"{row['error']['kind']}: {row['error']['message'][:200]}" for row in self.rows if not row["ok"]
        )


def write_prompts(path, items):
    texts = (
        "Name a river and a town on it.",
        "Sum up in one line: the bridge was closed for a winter, and the ferry came back.",
        "Which word does not fit: apple, garden, river, seven?",
        "Übersetze „Guten Morgen“ — auf 日本語, bitte 🙂.",
    )
    with open(path, "w", encoding="utf-8") as file:
        for number in range(items):
            text = f"{number}. {texts[number % len(texts)]}"
            file.write(json.dumps({"id": f"item-{number:04}", "prompt": text}) + "\n")


def run_program(binary, folder, address, wire, options=(), key="sk-unlimited", name="run"):
    """Runs the command line on the prompts in the folder."""
    output = folder / f"{name}.jsonl"
    command = [
        binary, "run", folder / "prompts.jsonl", "--model", wire.model, "--base-url", address + wire.path,
        "--api-key-env", KEY, "--output", output, "--overwrite", "--summary", "json", "--progress", "never",
        "--concurrency", "32", *options,
    ]
    # No other variable may set up a provider.
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))}
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command],
        env={**environment, KEY: key, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    seconds = time.monotonic() - started
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()] if output.exists() else []
    summary = next((json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")), {})
    return Result(done.returncode, rows, summary, done.stderr, seconds)


def options_of(run):
    if run.schema == "no":
        yield from ("--max-output-tokens", MAX_TEXT_TOKENS)
    else:
        path = SERVED / f"{run.wire.schema}.schema.json"
        yield from ("--max-output-tokens", MAX_JSON_TOKENS, "--schema", path)
        if run.schema == "yes" and run.wire.schema_field:
            yield from ("--extra", json.dumps({run.wire.schema_field: json.loads(path.read_text())}))
    if run.schema == "ignored":
        # All items fail, and each is to be tried.
        yield "--keep-going"
    if run.stream:
        yield "--stream"


def differences(run, result, items, served):
    """What is wrong with a run, as texts; `served` is the server's own count."""
    ids = Counter(row["id"] for row in result.rows)
    expected = Counter(f"item-{number:04}" for number in range(items))
    if missing := expected - ids:
        yield f"{missing.total()} items are not in the output: {', '.join(sorted(missing)[:5])}"
    if surplus := ids - expected:
        yield f"{surplus.total()} rows are too many: {', '.join(sorted(surplus)[:5])}"

    ours = result.count()
    if ours.calls != served.calls:
        yield f"we count {ours.calls} calls, the server {served.calls}"
    if (ours.input, ours.output) != (served.input, served.output):
        yield f"we count {ours.input} + {ours.output} tokens, the server {served.input} + {served.output}"
    if result.unknown:
        yield f"the usage of {result.unknown} calls is unknown"

    summary = result.summary
    said = (summary.get("calls"), summary.get("usage", {}).get("input"), summary.get("usage", {}).get("output"))
    if said != (ours.calls, ours.input, ours.output):
        yield f"the summary says {said}, the rows {(ours.calls, ours.input, ours.output)}"

    if run.schema == "ignored":
        if result.status != 1:
            yield f"the exit status is {result.status}, not 1: {result.errors[-300:]}"
        # An answer that reaches the output limit inside its JSON is cut, not invalid, and is not asked for again: as many
        # calls as the server counts are right all the same.
        expected = ("validation:", "truncated:") if ours.calls == served.calls else ("validation:",)
        for failure, count in result.failures().items():
            if not failure.startswith(expected):
                yield f"{count} items failed as {failure}"
    else:
        if result.status != 0:
            yield f"the exit status is {result.status}: {result.errors[-300:]}"
        for failure, count in result.failures().items():
            yield f"{count} items failed as {failure}"
    if run.schema != "no":
        schema = json.loads((SERVED / f"{run.wire.schema}.schema.json").read_text())
        wrong = [row["id"] for row in result.rows if row["ok"] and not follows(row["output"], schema)]
        if wrong:
            yield f"{len(wrong)} answers do not follow the schema: {', '.join(wrong[:5])}"
        if run.schema == "yes" and run.wire.schema == "bounded" and ours.calls != items:
            yield f"{ours.calls} calls for {items} items: the server did not hold every answer to the schema as it is"
    if run.stream:
        silent = [row["id"] for row in result.rows if row["ok"] and row["output"] and "first_token_ms" not in row]
        if silent:
            yield f"{len(silent)} streamed answers have no time to the first token: {', '.join(silent[:5])}"
