"""AWS takes a spot instance away, with its notice of two minutes."""

from __future__ import annotations

from tests.faults.bench import TRAINING, Bench, Work
from tests.faults.worker_faults import first_new_step
from tests.hosts.runs import wait_until
from tests.hosts.work import RANK, rank_past_checkpoint, workers

PORT = 8169
METADATA = f"""
import http.server, json, time

class Metadata(http.server.BaseHTTPRequestHandler):
    # The instance metadata service (version 2) of an instance that will be taken away in two minutes.
    def do_PUT(self):
        self.answer("a token")

    def do_GET(self):
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
        self.answer(json.dumps({{"action": "terminate", "time": end}}))

    def answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

http.server.HTTPServer(("127.0.0.1", {PORT}), Metadata).serve_forever()
"""


def spot_notice(bench: Bench, *overrides: str, program: str = "wsss") -> Work:
    """The host of a rank gets its notice, then loses its power: a checkpoint at once, the other host continues, no
    step is done twice, and none of the retries is spent (there are none)."""
    settings = ("runtime.placement=SPREAD", "runtime.rank_retries=0")
    work = bench.start("spot_notice", TRAINING, *settings, *overrides, program=program)
    rank, saved, at_work = rank_past_checkpoint(bench.hosts, work.runs, work.job)
    work.note_done()
    host, head = rank.host, bench.cluster.head
    (host.home / "metadata.py").write_text(METADATA)
    log = bench.cluster.lab.folder / "spot_notice.log"
    host.background("exec python ~/metadata.py", log=log)
    environment = ". ~/wsss/cluster/node_environment.sh"
    watch = f"python -m cluster.nodes.spot_notice --address {head.address}:6379 --endpoint http://127.0.0.1:{PORT}"
    rank.resume()
    try:
        host.background(f"{environment}; sleep 1; exec {watch} --interval 1", log=log)
        wait_until(lambda: not workers([host], RANK), f"no rank on {host.name}", timeout=110)
        stopped = work.runs.step()
        assert stopped >= at_work > saved, f"the checkpoint is of step {stopped}; step {at_work} was at work"
    finally:
        host.power_off()
        host.start()
    assert first_new_step(bench, work) == stopped + 1
    work.ends_like_the_reference()
    bench.comes_back()
    return work
