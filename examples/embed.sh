#!/usr/bin/env bash
# Requests with curl. Run a server (`make serve`), then: bash examples/embed.sh
set -euo pipefail
URL=${EMBEDWAY_URL:-http://127.0.0.1:30000}
MODEL=sentence-transformers/all-MiniLM-L6-v2

# One text.
curl --silent --show-error --fail-with-body "$URL/v1/embeddings" -H 'Content-Type: application/json' \
  -d '{"model": "'$MODEL'", "input": "The quick brown fox jumps over the lazy dog"}'
echo
# Several texts, as base64.
curl --silent --show-error --fail-with-body "$URL/v1/embeddings" -H 'Content-Type: application/json' \
  -d '{"model": "'$MODEL'", "input": ["a cat", "a feline"], "encoding_format": "base64"}'
echo
# Token ids of the model's own tokenizer.
curl --silent --show-error --fail-with-body "$URL/v1/embeddings" -H 'Content-Type: application/json' \
  -d '{"model": "'$MODEL'", "input": [101, 7592, 2088, 102]}'
echo
