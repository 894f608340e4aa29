"""`embedway check`: our vectors beside those of sentence-transformers or transformers, on this machine."""
