"""Recovery: what a lost process held is given back. Any number of keepers may run; none holds a lock."""
