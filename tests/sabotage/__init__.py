"""31 ways to break a pretext: the table, and a script that runs the kit on it."""
