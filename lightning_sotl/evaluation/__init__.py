"""Estimators judged on finished runs."""
