"""The pictures of README.md: the demo's report, the explorer and a contrast page, photographed in Chromium.

`uv run python docs/pictures.py [FOLDER]` runs the demo and a contrast of blue and green backgrounds below FOLDER (default:
outputs/pictures; finished parts are kept) and writes docs/images.
"""

import base64
import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from explore.browser import Browser, browsing  # noqa: E402

from saev.demo.birds import BIRDS, DemoBirds, extract  # noqa: E402
from saev.demo.wheels import cache_dir  # noqa: E402
from saev.explore import server  # noqa: E402
from saev.explore.opening import Session, prepare  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZE = 1200, 800
RIM, SATURATED, MOST = 12, 50, 0.6  # pixels; of 255; fraction of the rim that has the hue
HUES = {"green": (70, 170), "blue": (180, 260)}  # degrees


def background(path: Path) -> None:
    """A csv of path and background: the hue that most of a photo's rim has, or other."""
    birds = DemoBirds()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "background"])
        for i, name in enumerate(birds.paths()):
            pixels = np.asarray(birds.open(i).convert("HSV"), float)
            inside = np.zeros(pixels.shape[:2], bool)
            inside[RIM:-RIM, RIM:-RIM] = True
            hue, saturation, _ = pixels[~inside].T
            hue = hue * 360 / 255
            fits = {
                c: np.mean((hue > low) & (hue < high) & (saturation > SATURATED)) for c, (low, high) in HUES.items()
            }
            writer.writerow([name, next((colour for colour, fraction in fits.items() if fraction > MOST), "other")])


def command(*arguments: str, outputs: Path) -> None:
    """Run train.py, or saev, in the clone."""
    program = sys.executable if arguments[0] == "train.py" else str(Path(sys.executable).with_name("saev"))
    subprocess.run([program, *arguments], check=True, cwd=ROOT, env=os.environ | {"SAEV_OUTPUTS": str(outputs)})


def photograph(browser: Browser, name: str) -> None:
    """Write what the browser shows to docs/images."""
    picture = browser.call("Page.captureScreenshot", format="webp", quality=80)["data"]
    (IMAGES / f"{name}.webp").write_bytes(base64.b64decode(picture))


def page(path: Path, scroll: str, name: str) -> None:
    """Photograph a page with an element at its top."""
    with tempfile.TemporaryDirectory() as profile, browsing(path.as_uri(), Path(profile)) as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=SIZE[0], height=SIZE[1], deviceScaleFactor=1, mobile=False
        )
        browser.until(f"document.readyState === 'complete' && !!document.querySelector({scroll!r})")
        browser.js(f"document.querySelector({scroll!r}).scrollIntoView({{block: 'start'}})")
        time.sleep(1)  # photos are decoded
        photograph(browser, name)


def explorer(outputs: Path, dictionary: Path) -> None:
    """Photograph the view of the latent that is shown first."""
    session = Session((outputs,), outputs / "codes", outputs / "activations", DemoBirds(), str(dictionary), "cpu")
    prepare(str(dictionary), session)
    with (
        server.serving(session) as running,
        tempfile.TemporaryDirectory() as profile,
        browsing(running.address, Path(profile)) as browser,
    ):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=SIZE[0], height=SIZE[1], deviceScaleFactor=1, mobile=False
        )
        browser.click("one.textContent === 'Latent' && !one.children.length")
        browser.until("shown(one => one.matches('.saev .wide img') && one.complete).length > 8")
        browser.js("scrollTo(0, 0)")
        time.sleep(1)
        photograph(browser, "explore")


def credits() -> str:
    """The text of docs/images/CREDITS.md."""
    text = (extract(cache_dir() / f"{BIRDS.project}-{BIRDS.version}") / "ATTRIBUTION.md").read_text()
    names = re.findall(r"^### \[(.+?)\]\((\S+?)\)", text, re.MULTILINE)
    lines = [f"[{name}]({address})" for name, address in names]
    return f"# Credits of these pictures\n\n{DemoBirds().credits()}\n\nThe photographers: {', '.join(lines)}.\n"


def main() -> None:
    outputs = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "outputs" / "pictures").absolute()
    outputs.mkdir(parents=True, exist_ok=True)
    IMAGES.mkdir(exist_ok=True)
    run, contrast, table = outputs / "train" / "demo", outputs / "contrast" / "background", outputs / "background.csv"
    background(table)
    if not (run / "report.html").is_file():
        command("train.py", f"hydra.run.dir={run}", outputs=outputs)
    if not (contrast / "contrast.html").is_file():
        groups = ("a=background=blue", "b=background=green", f"table={table}", "images=demo_birds")
        command("contrast", str(run), *groups, f"hydra.run.dir={contrast}", outputs=outputs)
    page(run / "report.html", "#latents", "report")
    page(contrast / "contrast.html", "#one", "contrast")
    explorer(outputs, run / "saes" / "sae=batchtopk,k=32")
    (IMAGES / "CREDITS.md").write_text(credits())


if __name__ == "__main__":
    main()
