"""Chrome, Chromium or Edge for the browser tests: found, or installed where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .environment import Problem, clean_environ, say

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
WINDOWS = ("Google/Chrome/Application/chrome.exe", "Microsoft/Edge/Application/msedge.exe")
PACKAGES = ("chromium", "fonts-dejavu-core")


def ensure_browser() -> Path:
    """The browser's program. THROUGHLINE_BROWSER wins; else what is installed.

    As root on Debian and Ubuntu the package chromium is installed when there is none. Raises
    Problem that names what to install.
    """
    found = find_browser()
    if found is None and _may_install():
        say("installing Chromium (120 MB)")
        environ = {**clean_environ(), "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.call(["apt-get", "update", "-q"], env=environ, stdout=sys.stderr)
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
        subprocess.call(install, env=environ, stdout=sys.stderr)
        found = find_browser()
    if found is None:
        raise Problem(
            "the browser tests need Chrome, Chromium or Edge: install one (on Debian: "
            "sudo apt-get install chromium), or name its program in THROUGHLINE_BROWSER"
        )
    return found


def find_browser() -> Path | None:
    """The first browser found on this machine."""
    given = os.environ.get("THROUGHLINE_BROWSER")
    if given:
        return Path(given)
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return Path(path)
    roots = [os.environ.get(name) for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    places = [Path(place) for place in MAC]
    places += [Path(root) / place for root in roots if root for place in WINDOWS]
    return next((place for place in places if place.exists()), None)


def _may_install() -> bool:
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return root and sys.platform == "linux" and shutil.which("apt-get") is not None
