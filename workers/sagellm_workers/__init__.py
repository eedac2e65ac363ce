"""The engine-side half of sageLLM control: what runs next to an engine and hands it its work."""
