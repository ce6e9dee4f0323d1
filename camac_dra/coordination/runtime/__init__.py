"""The decision loop over agents that run as Ray actors: supervision, faults on purpose, figures."""
