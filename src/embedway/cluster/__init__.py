"""Embedway on a Ray cluster: `app.py` for Ray Serve, `dataset.py` for Ray Data. Needs the extra `embedway[ray]`."""
