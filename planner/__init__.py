"""Pure thinking: from request records to a recommendation. No sockets, no clocks, no locust."""
