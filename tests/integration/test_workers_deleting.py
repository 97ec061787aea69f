"""A server with several processes, in which repos and instances come and go: all of them agree, and none is held up."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.cli_process import Shell
from tests.integration.server_process import served
from tests.integration.workers_client import BLOCK, WORKERS, Client, new_instance, new_repo, talking

ROUNDS = 12


def come_and_go(client: Client, is_repo: bool) -> None:
    """Make a repo with a volume that its commit has the background rewrite, and delete it meanwhile."""
    root = new_repo(client)
    new_instance(client, root, "uint8blk", "gray", BlockSize="64,64,64")
    for value in (b"\1", b"\2"):
        client.done(0, "POST", f"/api/node/{root}/gray/raw/0_1_2/64_64_64/0_0_0", value * BLOCK)
    client.done(0, "POST", f"/api/node/{root}/commit", "{}")
    if is_repo:
        client.done(0, "POST", f"/api/repo/{root}/delete?imsure=true")
        assert {status for status, _ in client.everywhere(f"/api/repo/{root}/info")} <= {400, 404}
    else:
        client.done(0, "DELETE", f"/api/repo/{root}/instance/gray?imsure=true")
        assert {status for status, _ in client.everywhere(f"/api/node/{root}/gray/info")} <= {400, 404}


def test_all_processes_agree_on_what_was_deleted(shell: Shell, tmp_path: Path) -> None:
    with served(tmp_path / "store", "--workers", WORKERS) as server, talking(server) as client:
        kept = new_repo(client)
        stop = threading.Event()

        def make(is_repo: bool) -> None:
            with talking(server) as own:
                for _ in range(ROUNDS):
                    come_and_go(own, is_repo)

        def look() -> int:
            count = 0
            with talking(server) as own:
                while not stop.is_set():
                    answers = own.everywhere(f"/api/repo/{kept}/info")
                    assert {status for status, _ in answers} == {200}
                    count += 1
            return count

        with ThreadPoolExecutor(5) as pool:
            looking = pool.submit(look)
            makers = [pool.submit(make, number % 2 == 0) for number in range(4)]
            try:
                for each in makers:
                    each.result()
            finally:
                stop.set()
            assert looking.result() > 0
        found = client.done(0, "GET", "/api/repos/info")
        assert len(json.loads(found)) == 1 + 2 * ROUNDS
    outcome = shell.run("verify", "--deep", tmp_path / "store")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (0, "0 errors, 0 warnings, 0 errors remain")
