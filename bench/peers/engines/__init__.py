"""The peers: each file is a program of its own, run by the Python of that peer's environment."""
