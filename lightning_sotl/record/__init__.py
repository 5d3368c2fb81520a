"""The run's record, `sotl.jsonl`."""
