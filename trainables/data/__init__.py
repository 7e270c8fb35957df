"""From files to the model's input: index -> sampler -> images -> normalize, with prefetch around them."""
