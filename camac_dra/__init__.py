"""CAMAC-DRA: multi-agent training and coordination for distributed resource allocation, on Ray."""

__version__ = "0.1.0"
