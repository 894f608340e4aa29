"""Files in, vectors out, without a server: `embedway embed`. Needs the extra `embedway[files]`."""
