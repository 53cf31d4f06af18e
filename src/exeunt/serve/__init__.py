"""The web server `exeunt serve`: an engine in the event loop or a thread of its own, behind FastAPI."""
