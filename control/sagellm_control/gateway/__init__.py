"""The OpenAI-compatible HTTP door to the queue."""
