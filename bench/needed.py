"""What must be there before anything is measured; what is missing is named, and by the package that brings it."""

from __future__ import annotations

import importlib.util
import subprocess
from typing import Final

from harness.programs import find_program, missing

PROGRAMS: Final = ("cc", "dovecot", "postfix", "smtp-source", "strace")


def missing_packages() -> list[str]:
    """Return what is missing, each as a sentence with what would help."""
    lacking = missing(PROGRAMS)
    if find_program("cc") is not None and not _has_openssl_headers():
        lacking.append("needs the headers of OpenSSL: apt-get install libssl-dev libc6-dev")
    if importlib.util.find_spec("aiosmtpd") is None:
        lacking.append("needs aiosmtpd: pip install aiosmtpd, or make .venv/dev.stamp")
    return lacking


def _has_openssl_headers() -> bool:
    source = "#include <pthread.h>\n#include <openssl/ssl.h>\nint main(void) { return 0; }\n"
    words = [find_program("cc") or "cc", "-x", "c", "-fsyntax-only", "-"]
    return subprocess.run(words, input=source.encode(), capture_output=True, check=False).returncode == 0
