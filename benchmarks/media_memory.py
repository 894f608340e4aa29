"""Memory while 200 images of 20 megapixels come at once: python -m benchmarks.media_memory

A CLIP with random weights; each image is a JPEG of its own. Prints the most that all processes hold together, beside
what they hold before, and what the pixels of all images would take.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.checkpoints import write_random_clip
from benchmarks.http_load import run_load
from benchmarks.images import our_server, post
from benchmarks.machine import read_machine
from benchmarks.photos import jpeg, photo

WIDTH, HEIGHT = 5000, 4000
POLL_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    arguments = parser.parse_args()
    print(read_machine())
    image = jpeg(photo(0, WIDTH, HEIGHT))
    requests = [post(image + i.to_bytes(4, "little")) for i in range(arguments.images)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clip"
        write_random_clip(folder)
        server = our_server(folder, "auto")
        try:
            before = server.processes.proportional_mb()
            most, stop = [before], threading.Event()

            def watch() -> None:
                while not stop.wait(POLL_SECONDS):
                    most[0] = max(most[0], server.processes.proportional_mb())

            watcher = threading.Thread(target=watch)
            watcher.start()
            began = time.perf_counter()
            result = run_load(server.port, requests, connections=arguments.images, seconds=float("inf"))
            took = time.perf_counter() - began
            stop.set()
            watcher.join()
            print(
                f"{len(result.latencies)} images of {WIDTH} x {HEIGHT}, {len(image) / 1e6:.1f} MB each, in {took:.0f} s"
            )
            print(
                f"before {before:.0f} MB, at most {most[0]:.0f} MB, after {server.processes.proportional_mb():.0f} MB"
            )
            print(f"pixels of all images: {arguments.images * WIDTH * HEIGHT * 3 / 1e6:.0f} MB")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
