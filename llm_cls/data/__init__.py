"""From files to batches: corpus, split, template, tokens, batches."""
