"""The doctor of an installation: whether a sweep can run here, before one is started. examine -> one process a check.

Each check is a function `Wanted -> findings` in a file of its own. It runs in a process of its own, so that a driver
that crashes, a mount that hangs and a server that is silent cost a finding and never the command.
"""
