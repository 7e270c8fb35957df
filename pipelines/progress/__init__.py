"""How far a command is: estimates, a sweep's trials as a live table or as lines."""
