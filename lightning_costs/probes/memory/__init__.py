"""Memory: what is held by kind, and storages followed through a step."""
