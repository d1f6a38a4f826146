"""The sweep driver, the recorder and the look at a target."""
