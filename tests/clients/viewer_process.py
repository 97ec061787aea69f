"""A process of its own that shows layers in Neuroglancer in a headless browser and saves what is seen.

Own process, because a layer that cannot load makes Neuroglancer wait for ever: whoever starts this ends the whole
group. Reads one job (JSON) from stdin, writes `<name>.png` per layer and one JSON report to stdout.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neuroglancer import Viewer
    from neuroglancer.webdriver import Webdriver

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


def picture(viewer: "Viewer", job: dict[str, Any]) -> bytes | None:
    """Return the picture as PNG, None when it is not complete in time."""
    taken: list[bytes] = []

    def take() -> None:
        taken.append(viewer.screenshot(size=job["size"]).screenshot.image)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(job["timeout_s"])
    return taken[0] if taken else None


def run(job: dict[str, Any], browser: "Webdriver", viewer: "Viewer") -> dict[str, Any]:
    """Show each layer in turn; report which came out, and what the browser complained about."""
    shown = []
    for name in job["layers"]:
        show(viewer, job, name)
        image = picture(viewer, job)
        if image is None:
            break
        Path(job["folder"], f"{name}.png").write_bytes(image)
        shown.append(name)
    return {"shown": shown, "complaints": [entry["message"] for entry in browser.driver.get_log("browser")]}


def main() -> None:
    """Run the job on stdin."""
    job = json.load(sys.stdin)
    # The bundled page asks Python for a token before its first request, and hangs without an answer.
    os.environ["DVID_CREDENTIALS"] = f"{job['server']}=unused"
    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}
    import neuroglancer
    from neuroglancer.webdriver import Webdriver

    viewer = neuroglancer.Viewer()
    with Webdriver(
        viewer,
        headless=True,
        browser_binary_path=job["browser"],
        extra_command_line_args=BROWSER_ARGUMENTS,
    ) as browser:
        report = run(job, browser, viewer)
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    os._exit(0)  # threads of a picture that never came would keep the process


if __name__ == "__main__":
    main()
