"""Stopping rules: values in, decision out."""
