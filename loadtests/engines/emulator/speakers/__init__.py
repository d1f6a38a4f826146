"""One module a server: its pages, its streams, its errors, as recorded from real ones."""
