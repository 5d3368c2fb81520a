"""Integrations with sweep libraries. Each one needs its extra."""
