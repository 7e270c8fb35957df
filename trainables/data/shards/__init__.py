"""Arrow shards: a data set in a few large files of shuffled images. source -> plan -> write -> index -> store."""
