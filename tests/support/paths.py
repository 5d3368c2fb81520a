"""Where the project's parts are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lightning_sotl"
EXAMPLES = ROOT / "examples"
PAPER = EXAMPLES / "paper"
LANGUAGE = EXAMPLES / "language"
