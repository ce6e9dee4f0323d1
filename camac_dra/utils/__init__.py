"""Configuration, files, records and statistics; imports nothing else of the package."""
