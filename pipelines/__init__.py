"""What a person starts: the `epoch14` command and the sweeps behind it."""
