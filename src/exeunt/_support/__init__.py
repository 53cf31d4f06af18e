"""What all packages share: files, JSON, YAML and SQLite with bounds, arrays, texts, progress, limits of the machine."""
