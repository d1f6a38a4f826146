"""Chat load on any OpenAI-compatible server: ``locust -f loadtests/openai.py --host http://127.0.0.1:8000``."""

from __future__ import annotations

from loadtests.plugin import ChatUser

__all__ = ["OpenAIUser"]


class OpenAIUser(ChatUser):
    """A person who chats with any OpenAI-compatible server."""

    backend = "openai"
