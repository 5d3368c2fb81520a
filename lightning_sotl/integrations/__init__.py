"""Bindings to sweep libraries, each behind its extra."""
