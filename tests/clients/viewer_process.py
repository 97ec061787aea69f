"""A process of its own that shows layers in Neuroglancer in a headless browser and saves what is seen.

Own process, because a layer that cannot load makes Neuroglancer wait for ever: whoever starts this ends the whole
group. Reads one job (JSON) from stdin, writes `<name>.png` per layer and one JSON report to stdout.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroglancer import Viewer
    from neuroglancer.webdriver import Webdriver

SETTLE_S = 3.0
"""So long after the complaint no picture may come."""

# WebGL2 in software; no look-ups outside this machine
BROWSER_ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--force-device-scale-factor=1",
)


def show(viewer: "Viewer", job: dict[str, Any], name: str) -> None:
    """Put one layer on the screen, and its labels over it: the xy plane, one voxel per pixel, grey values as they are."""
    import neuroglancer

    with viewer.txn() as state:
        names, scales = ["x", "y", "z"], job["voxel_size_nm"]
        state.dimensions = neuroglancer.CoordinateSpace(names=names, units="nm", scales=scales)
        state.position = job["position"]
        state.layers.clear()
        state.layers["gray"] = neuroglancer.ImageLayer(
            source=job["layers"][name],
            opacity=1,
            shader="void main() { emitGrayscale(toNormalized(getDataValue())); }",
        )
        if name in job["labels"]:
            state.layers["labels"] = neuroglancer.SegmentationLayer(
                source=job["labels"][name],
                selected_alpha=job["alpha"],
                segment_colors=job["colors"],
                hide_segment_zero=True,
                hover_highlight=False,
            )
        state.layout = "xy"
        state.cross_section_scale = 1
        state.cross_section_background_color = "#000000"
        state.show_axis_lines = False
        state.show_scale_bar = False
        state.show_default_annotations = False


class Console:
    """What the browser complained about so far."""

    def __init__(self, browser: "Webdriver") -> None:
        self._browser = browser
        self.lines: list[str] = []

    def says(self, text: str) -> bool:
        """Look again; tell whether some line holds a text."""
        self.lines += [entry["message"] for entry in self._browser.driver.get_log("browser")]
        return bool(text) and any(text in line for line in self.lines)


def picture(viewer: "Viewer", job: dict[str, Any], console: Console) -> bytes | None:
    """Return the picture as PNG, None when it is not complete in time, or some seconds after the complaint."""
    taken: list[bytes] = []

    def take() -> None:
        taken.append(viewer.screenshot(size=job["size"]).screenshot.image)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    until, told = time.monotonic() + job["timeout_s"], False
    while thread.is_alive() and time.monotonic() < until:
        thread.join(0.5)
        if not told and console.says(job["complaint"]):
            told, until = True, time.monotonic() + SETTLE_S
    return taken[0] if taken else None


def run(job: dict[str, Any], browser: "Webdriver", viewer: "Viewer") -> dict[str, Any]:
    """Show each layer in turn; report which came out, and what the browser complained about."""
    shown, console = [], Console(browser)
    for name in job["layers"]:
        show(viewer, job, name)
        image = picture(viewer, job, console)
        if image is None:
            break
        Path(job["folder"], f"{name}.png").write_bytes(image)
        shown.append(name)
    console.says("")
    return {"shown": shown, "complaints": console.lines}


def main() -> None:
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    # The bundled page asks Python for a token before its first request, and hangs without an answer.
    os.environ["DVID_CREDENTIALS"] = f"{job['server']}=unused"
    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    import neuroglancer
    from neuroglancer.webdriver import Webdriver
    from selenium.common.exceptions import WebDriverException

    viewer = neuroglancer.Viewer()
    try:
        browser = Webdriver(
            viewer,
            headless=True,
            browser_binary_path=job["browser"],
            extra_command_line_args=BROWSER_ARGUMENTS,
        )
    except WebDriverException as error:
        report: dict[str, Any] = {"missing": f"the browser does not start: {str(error)[:300]}"}
    else:
        with browser:
            report = run(job, browser, viewer)
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)  # threads of a picture that never came would keep the process


if __name__ == "__main__":
    main()
