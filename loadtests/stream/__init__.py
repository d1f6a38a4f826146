"""Sockets: one request out, stamped bytes back."""
