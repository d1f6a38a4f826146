"""Pure thinking: from request records to a recommendation. No sockets, no clocks, no locust."""

__version__ = "0.1.0"
