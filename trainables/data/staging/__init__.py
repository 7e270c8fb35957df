"""A local copy of shards that lie at a URI, made once for all processes of a machine. stage -> turn, fetch."""
