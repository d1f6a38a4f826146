"""An emulator of inference servers: their wire formats, driven by the planner's batching model."""
