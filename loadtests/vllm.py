"""Chat load on vLLM: ``locust -f loadtests/vllm.py --host http://127.0.0.1:8000``."""

from __future__ import annotations

from loadtests.plugin import ChatUser

__all__ = ["VllmUser"]


class VllmUser(ChatUser):
    """A person who chats with vLLM."""

    backend = "vllm"
