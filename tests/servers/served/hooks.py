"""The proxy's own count of its calls, a line of JSON each, and its keys, without a database.

Every key that begins with `sk-` is taken; `sk-rpm-N-NAME` may make N requests a minute.
"""

import json
import os

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import LitellmUserRoles, UserAPIKeyAuth


class Ledger(CustomLogger):
    """Writes what LiteLLM would write to its spend logs."""

    def _write(self, ok, kwargs):
        payload = kwargs.get("standard_logging_object") or {}
        line = {
            "ok": ok,
            "wire": payload.get("call_type"),
            "input": payload.get("prompt_tokens"),
            "output": payload.get("completion_tokens"),
        }
        with open(os.environ["LEDGER"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self._write(True, kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self._write(False, kwargs)


ledger = Ledger()


async def authenticate(request, api_key):
    if not api_key.startswith("sk-"):
        raise ValueError("the key does not begin with sk-")
    limit = api_key.split("-")[2] if api_key.startswith("sk-rpm-") else None
    return UserAPIKeyAuth(
        api_key=api_key,
        user_role=LitellmUserRoles.INTERNAL_USER,
        rpm_limit=limit and int(limit),
    )
