"""What goes over Redis: key names, states, and the shapes of messages. No I/O here."""
