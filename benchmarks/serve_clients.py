"""How many images a second 20 clients get from `manymask serve`, beside the model alone on the same images, in turn.

Usage: python benchmarks/serve_clients.py IMAGES [SECONDS OF A TURN] [CLIENTS]
"""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import numpy as np

from manymask.errors import ManymaskError
from manymask.imaging import find_images
from manymask.prediction import load_model, predict
from manymask.serve.client import Client

TOKEN = "of this measurement alone"
TURNS = 2


def find_free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_server(folder):
    """The program with the model `nuclei`, and a client of it, once it answers."""
    (folder / "token").write_text(TOKEN)
    port = find_free_port()
    command = [sys.executable, "-m", "manymask", "serve", "nuclei", "--port", str(port), "--no-browser"]
    command += ["--workspace", str(folder / "workspace"), "--token-file", str(folder / "token")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = Client(f"http://127.0.0.1:{port}", TOKEN)
    deadline = time.monotonic() + 120
    while not answers(client):
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            process.wait()
            raise SystemExit("the server does not answer")
        time.sleep(1)
    return process, client


def answers(client):
    try:
        client.describe_model()
    except ManymaskError:
        return False
    return True


def predict_alone(model, paths, seconds):
    """Images a second of the model itself."""
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        number += sum(1 for _ in predict(model, paths))
    return number / (time.perf_counter() - start)


def predict_by_clients(client, paths, seconds, num_clients):
    """Images a second of all clients together, and the seconds that each image took."""
    numbers, waits, failures = count(), [], []
    start = time.perf_counter()

    def work():
        while time.perf_counter() - start < seconds and not failures:
            begin = time.perf_counter()
            try:
                client.predict(paths[next(numbers) % len(paths)])
            except ManymaskError as error:  # raised again below, where the measurement ends
                failures.append(error)
                return
            waits.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=work) for _ in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(waits) / (time.perf_counter() - start), waits


def main(images, seconds=60.0, num_clients=20):
    paths = [path for _, path in find_images(images)]
    model = load_model("nuclei")
    with tempfile.TemporaryDirectory() as folder:
        process, client = start_server(Path(folder))
        try:
            # Once before it counts, as the first calls of a process are slow.
            for _ in predict(model, paths[:2]):
                pass
            client.predict(paths[0])
            alone, served = [], []
            for _ in range(TURNS):
                alone.append(predict_alone(model, paths, seconds))
                rate, waits = predict_by_clients(client, paths, seconds, num_clients)
                served.append(rate)
                print(
                    f"images a second: alone {alone[-1]:.2f}, {num_clients} clients {rate:.2f}, that is "
                    f"{rate / alone[-1]:.2f}; "
                    f"an image took {np.median(waits):.1f} s, p95 {np.percentile(waits, 95):.1f} s",
                    flush=True,
                )
            print(f"served {np.mean(served) / np.mean(alone):.2f} of the model alone")
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(float(each) for each in sys.argv[2:3]), *(int(each) for each in sys.argv[3:4]))
