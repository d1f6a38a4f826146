"""Chat load on llama.cpp, Ollama and vLLM at once, each on its own port.

``locust -f loadtests/all_backends.py`` finds them on their usual ports of this machine; other
places are named by ``--llamacpp-host``, ``--ollama-host`` and ``--vllm-host``, and an empty value
leaves one out.
"""

from __future__ import annotations

# Modules, not classes: Locust runs every User class that it finds by name in a locustfile.
from loadtests import llamacpp, ollama, vllm

__all__ = ["LlamaCppUser", "OllamaUser", "VllmUser"]


class LlamaCppUser(llamacpp.LlamaCppUser):
    """A person who chats with llama.cpp, at ``--llamacpp-host``."""

    host_option = "llamacpp_host"


class OllamaUser(ollama.OllamaUser):
    """A person who chats with Ollama, at ``--ollama-host``."""

    host_option = "ollama_host"


class VllmUser(vllm.VllmUser):
    """A person who chats with vLLM, at ``--vllm-host``."""

    host_option = "vllm_host"
