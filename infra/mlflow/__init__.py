"""The tracking server of a team."""
