"""A gateway in front of language models: shadow, certify, live."""
