"""The parts of the event simulation: engines, traffic, routing, outcomes."""
