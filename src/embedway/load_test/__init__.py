"""`embedway bench`: load for any server with OpenAI's /v1/embeddings, and what came of it."""
