"""`iterate`: rounds in which each model makes the next round's data, as a small state machine over the other commands."""
