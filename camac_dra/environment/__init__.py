"""The decision problem: agents that share scarce resources."""
