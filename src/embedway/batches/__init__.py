"""OpenAI's files and batches: what clients upload and ask for, what becomes of it, and who works it off.

Knows nothing of HTTP, nor of how a line is embedded: the runner is given a function for that.
"""
