"""Gold as files: pixels in shards of bounded size, an index of each split, a description with all digests."""
