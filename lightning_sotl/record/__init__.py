"""A run's record, `sotl.jsonl`."""
