"""A durable, shared, priority-aware control plane for LLM inference."""

__version__ = "0.6.0"

__all__ = ["__version__"]
