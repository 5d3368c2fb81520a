"""The callbacks' logic, free of both Lightning packages; the two doors give it a base class."""
