"""Description of the machine."""

from __future__ import annotations

from pathlib import Path
import platform


def processor() -> str:
    """Return the processor's name."""
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()
