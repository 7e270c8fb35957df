"""Logs that other people's trainings left: read, put in order, and asked what went wrong; nothing is replayed."""
