"""What servers share: names and limits, keys, connections, how they run, and the parts of pages."""
