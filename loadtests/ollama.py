"""Chat load on Ollama: ``locust -f loadtests/ollama.py --host http://127.0.0.1:11434``."""

from __future__ import annotations

from loadtests.plugin import ChatUser

__all__ = ["OllamaUser"]


class OllamaUser(ChatUser):
    """A person who chats with Ollama."""

    backend = "ollama"
