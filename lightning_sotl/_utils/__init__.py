"""What every part may use: checks of arguments, texts, messages, extras, files."""
