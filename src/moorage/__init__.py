"""Moorage: a container registry server. Start reading at ARCHITECTURE.md."""

__version__ = "0.1.0"
