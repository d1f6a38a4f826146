"""``headroom doctor``: what a server is, what its APIs can, and what would spoil a measurement."""
