"""Making runs without training in PyTorch: cascades, runs at another precision, tf-idf and other estimators."""
