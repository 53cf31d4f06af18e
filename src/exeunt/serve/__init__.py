"""The web server `exeunt serve`: an engine in a thread of its own, behind FastAPI."""
