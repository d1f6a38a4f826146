"""Chat load on llama.cpp: ``locust -f loadtests/llamacpp.py --host http://127.0.0.1:8080``."""

from __future__ import annotations

from loadtests.plugin import ChatUser

__all__ = ["LlamaCppUser"]


class LlamaCppUser(ChatUser):
    """A person who chats with llama.cpp."""

    backend = "llamacpp"
