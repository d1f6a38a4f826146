"""``headroom parity``: the same greedy prompts to every server, and where their texts part."""
