"""An OpenAI-compatible endpoint in front of live models: in shadow, then certified on its own traffic, then live."""
