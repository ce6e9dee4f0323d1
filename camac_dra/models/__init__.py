"""Models: torch networks and the RLModule around them, normalisation, acting on arrays, heuristics."""
