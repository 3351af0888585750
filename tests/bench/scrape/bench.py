"""How long a scrape of a busy server takes against one of an idle server, turn by turn.

    TEQ_BIN=build/bin TEQ_FIXTURES=tests/fixtures TEQ_PROTO=proto NODE_PATH=.tools/node_modules \\
      PYTHONPATH=tests python3 tests/bench/scrape/bench.py

The busy one has 10,000 ended and 200 running jobs. Prints JSON: series, milliseconds (the median of
the rounds and the least) and busy by idle. A round reads each server once; connections are kept.
"""

import argparse
import http.client
import json
import pathlib
import statistics
import subprocess
import time

from harness import programs
from harness.jobs import Workshop

HERE = pathlib.Path(__file__).parent


def scraper(house):
    """Reads the metrics over one connection: the seconds that it took, and the text."""
    connection = http.client.HTTPConnection("127.0.0.1", house.http_port)

    def scrape():
        begin = time.perf_counter()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return time.perf_counter() - begin, text

    return scrape


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ended", type=int, default=10_000)
    parser.add_argument("--active", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    houses = {"idle": programs.House(lease="10m"), "busy": programs.House(lease="10m")}
    try:
        for house in houses.values():
            house.start_server()
        workshop = Workshop(houses["busy"].root / "shop")
        subprocess.run(["node", str(HERE / "jobs.cjs"), houses["busy"].address, str(options.ended),
                        str(options.active)], input=json.dumps(workshop.job()), text=True, check=True)
        scrapers = {name: scraper(house) for name, house in houses.items()}
        seconds = {name: [] for name in houses}
        texts = {}
        for _ in range(options.rounds):
            for name, scrape in scrapers.items():
                taken, texts[name] = scrape()
                seconds[name].append(taken)
        result = {"ended": options.ended, "active": options.active}
        for name in houses:
            result[name] = {
                "series": sum(1 for line in texts[name].splitlines() if not line.startswith("#")),
                "bytes": len(texts[name]),
                "median_ms": round(1e3 * statistics.median(seconds[name]), 3),
                "least_ms": round(1e3 * min(seconds[name]), 3)}
        for figure in ("median", "least"):
            key = f"{figure}_ms"
            result[f"busy_by_idle_{figure}"] = round(result["busy"][key] / result["idle"][key], 2)
        print(json.dumps(result, indent=1))
    finally:
        for house in houses.values():
            house.close()


if __name__ == "__main__":
    main()
