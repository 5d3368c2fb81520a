"""The order of a directory's runs, and whether they can be compared."""
