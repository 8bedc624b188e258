"""The two servers, and what each counts by itself."""

import json
import re
from dataclasses import dataclass

from processes import SERVED, Failure, Server, free_port, get


@dataclass
class Count:
    """Calls and their tokens, as a server counts them."""

    calls: int = 0
    input: int = 0
    output: int = 0

    def __add__(self, other):
        return Count(self.calls + other.calls, self.input + other.input, self.output + other.output)

    def __sub__(self, earlier):
        return Count(self.calls - earlier.calls, self.input - earlier.input, self.output - earlier.output)


class LlamaCpp(Server):
    """llama.cpp's server, with a random model that is made first."""

    def __init__(self, python, folder, port):
        self.address = f"http://127.0.0.1:{port}"
        super().__init__(
            "llamacpp",
            folder,
            [python, SERVED / "llamacpp.py", folder / "tiny.gguf", port],
            {},
            f"{self.address}/health",
        )
        self._calls = 0

    def count(self):
        """Of all prompts that reached a slot, from its log; tokens from its metrics."""
        self._calls += sum("| processing task" in line for line in self.new_lines())
        metrics = dict(re.findall(r"^llamacpp:(\w+) (\S+)", get(f"{self.address}/metrics"), re.MULTILINE))
        # Neither of the first two includes the other: tokens are processed, or found in a slot's cache.
        names = ("prompt_tokens_total", "prompt_tokens_cached_total", "tokens_predicted_total")
        try:
            processed, cached, predicted = (int(metrics[name]) for name in names)
        except KeyError as missing:
            raise Failure(f"llama.cpp's metrics have no {missing}") from None
        except ValueError:
            raise Failure("llama.cpp's metrics round from a million tokens on; run fewer items") from None
        return Count(self._calls, processed + cached, predicted)

    def is_settled(self):
        return "llamacpp:requests_processing 0\n" in get(f"{self.address}/metrics")


class LiteLlm(Server):
    """LiteLLM's proxy in front of a llama.cpp server."""

    def __init__(self, python, folder, backend_port):
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._ledger = folder / "litellm-ledger.jsonl"
        self._ledger.write_text("")
        super().__init__(
            "litellm",
            folder,
            [python, SERVED / "litellm_proxy.py", SERVED / "litellm.yaml", port],
            {
                "LLAMACPP_BASE_URL": f"http://127.0.0.1:{backend_port}/v1",
                "LEDGER": str(self._ledger),
                # It may not look for its price list elsewhere.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                # llama.cpp closes the connection after a stream although it announces to keep it.
                "AIOHTTP_KEEPALIVE_TIMEOUT": "0",
                # By default Messages go to the backend's Responses, which ignore a schema.
                "LITELLM_USE_CHAT_COMPLETIONS_URL_FOR_ANTHROPIC_MESSAGES": "True",
                "DATABASE_URL": None,
                "NO_DOCS": "True",
            },
            f"{self.address}/health/liveliness",
        )
        self._statuses = {}

    def statuses(self):
        """The number of requests with each status, from its access log."""
        for line in self.new_lines():
            if found := re.search(r'"POST \S+ HTTP/1\.1" (\d+)', line):
                status = int(found[1])
                self._statuses[status] = self._statuses.get(status, 0) + 1
        return dict(self._statuses)

    def count(self):
        """Of all requests, from its access log; tokens from what it writes to spend logs."""
        tokens = Count(sum(self.statuses().values()))
        for line in self._ledger.read_text().splitlines():
            call = json.loads(line)
            tokens.input += call["input"] or 0
            tokens.output += call["output"] or 0
        return tokens

    def is_settled(self):
        """The ledger is written some time after the reply."""
        return len(self._ledger.read_text().splitlines()) >= sum(self.statuses().values())
