"""What is seen of an engine while it answers, and learned from it: how fast it is, and how much may start on it."""
