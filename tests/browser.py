"""Pages in a real browser: what a headless Chromium of some width finds on them, axe-core's judgement
included.

axe-core is not part of the project: it is fetched by npm on first use, in a fixed version whose checksum is
known, into pytest's cache; a test that needs it is skipped, with the reason, where neither is there.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needed = pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
AXE = "axe-core-4.14.1"
AXE_SHA256 = "e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745"
CACHE = REPOSITORY / ".pytest_cache/axe"
# The page is opened in a frame of the wanted width: a window cannot be as narrow as a telephone.
FRAME = """<!doctype html><body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<script>addEventListener("message", event => {{ const note = document.createElement("script"); note.type = "application/json"; note.id = "found";
note.textContent = event.data.replaceAll("<", "\\\\u003c"); document.body.append(note); }});</script></body>"""
PROBE = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(event.message));
console.error = console.warn = (...words) => wrong.push(words.join(" "));
addEventListener("load", async () => {
  const found = {wrong, wide: document.documentElement.scrollWidth - document.documentElement.clientWidth, width: innerWidth, outside: performance.getEntriesByType("resource").length};
  DO
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
LOOK = """
  const navigation = performance.getEntriesByType("navigation")[0];
  found.ready = navigation.domComplete;
  const first = [...document.querySelectorAll("svg")].find(svg => svg.getBoundingClientRect().height > 50);
  found.first = first && first.getBoundingClientRect().bottom;
  found.figures = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().height);
"""
JUDGE = """
  found.violations = (await axe.run(document, {resultTypes: ["violations"]})).violations.flatMap(rule =>
    rule.nodes.slice(0, 3).map(node => `${rule.id}: ${node.html.slice(0, 200)}`));
"""


def axe() -> str:
    """The source of axe-core, fetched once; skips the test where it cannot be had."""
    package = CACHE / f"{AXE}.tgz"
    if not package.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        try:
            command = ["npm", "pack", AXE.replace("core-", "core@"), "--pack-destination", CACHE]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"axe-core is not here and npm could not fetch it: {error}")
    assert hashlib.sha256(package.read_bytes()).hexdigest() == AXE_SHA256, (
        f"{package} is not {AXE}: delete it"
    )
    with tarfile.open(package) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


def opened(
    page: Path, width: int, script: str = LOOK, libraries: str = "", address: str = "", dark: bool = False
) -> dict:
    """What `script` finds on a page of that width and 900 pixels of height, once it is loaded.

    `libraries` is run before it; `address` is what follows the page's name.
    """
    probed, frame = (page.with_name(f".{name}-{os.getpid()}.html") for name in ("probed", "frame"))
    library = "<script>" + libraries.replace("</script", "<\\/script") + "</script>" if libraries else ""
    probe = PROBE.replace("DO", script)
    probed.write_text(page.read_text().replace("<head>", "<head>" + library + probe, 1))
    frame.write_text(FRAME.format(page=probed.name + address, width=width, height=900))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1600,1000",
        "--virtual-time-budget=20000",
    ]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    try:
        done = subprocess.run(
            [BROWSER, *flags, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=180
        )
    finally:
        probed.unlink()
        frame.unlink()
    return json.loads(re.search(r'id="found">(.*?)</script>', done.stdout, re.DOTALL).group(1))


def stands(found: dict, page: Path, width: int):
    """What holds for the page of any study: no error, nothing wider than the screen, soon there, the first
    figure in view.
    """
    assert found["width"] == width
    assert found["wrong"] == []
    assert found["outside"] == 0
    assert found["wide"] <= 0, "the page itself scrolls sideways"
    assert found["first"] < 900 or width < 1440, "the first figure is not within the first screen"
    assert page.stat().st_size < 3_000_000
